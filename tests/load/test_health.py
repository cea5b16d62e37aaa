from typing import Any

import pytest

from poise.load import GeneratorHealth
from poise.load.health import judge, spread


def judged(**fields: Any) -> GeneratorHealth:
    given: dict[str, Any] = {
        "lateness_s": [0.001] * 2000,
        "loop_lag_s": [0.001],
        "cpu_s": 1.0,
        "wall_s": 10.0,
        "most_in_flight": 3,
        "connections": 2,
        "unsent": 0,
        "shortest_deadline_s": 0.1,
        "min_jobs": 1000,
    }
    return judge(**{**given, **fields})


def test_a_valid_run():
    health = judged()
    assert (health.valid, health.reasons) == (True, [])
    assert health.cpu_frac == pytest.approx(0.1)
    assert health.cpu_per_job_s == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"lateness_s": [0.006] * 2000}, "late"),
        ({"lateness_s": [0.0] * 1970 + [0.006] * 30}, "late"),
        ({"shortest_deadline_s": 0.009}, "late"),
        ({"cpu_s": 9.5}, "95% of a core"),
        ({"unsent": 1}, "connection"),
        ({"lateness_s": [0.001] * 999}, "999 jobs"),
    ],
)
def test_a_run_that_is_not_valid_says_why(fields, word):
    health = judged(**fields)
    assert not health.valid
    assert len(health.reasons) == 1
    assert word in health.reasons[0]


def test_a_few_late_jobs_do_no_harm():
    assert judged(lateness_s=[0.0] * 1990 + [0.5] * 10).valid


def test_spread():
    times = spread([float(i) for i in range(100)])
    assert times is not None
    assert (times.p50, times.p99, times.max) == (49.0, 98.0, 99.0)
    assert spread([]) is None
