"""The soak, for three minutes; ``make soak`` runs it for an hour."""

from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from tests.faults.soak import Held, Report, soak


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_everything_at_once(tmp_path: Path) -> None:
    report = soak(180, tmp_path)
    Console(width=120).print(report.table())
    assert report.problems == []
    assert report.workers_lost > 20
    assert len(report.faults) == 17  # every fault had its turn


GOOD = Report(
    seconds=10,
    sent=100,
    not_sent=0,
    statuses={"200": 98, "500 model_failed": 2},
    lost={},
    wrong=0,
    slowest_s=0.1,
    held=[Held(float(i), 10**8) for i in range(10)],
    fds_before=40,
    fds_after=44,
    workers_lost=3,
    faults={},
    one_by_one={},
    calls={"OK": 3, "CANCELLED": 1},
    reloads=2,
    reloads_refused=1,
    exit_status=0,
    left_behind=0,
)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"lost": {"reset": 1}}, "requests got no reply"),
        ({"wrong": 1}, "answers were wrong"),
        ({"calls": {"OK": 3, "wrong": 1}}, "a call over gRPC went wrong"),
        ({"calls": {"OK": 3, "no status": 1}}, "a call over gRPC went wrong"),
        ({"faults": {"service reloaded": 3}, "reloads": 0}, "no reload was applied"),
        ({"faults": {"service file that is wrong": 3}, "reloads_refused": 0}, "no wrong file was refused"),
        ({"sent": 101}, "replies do not add up to what was sent"),
        ({"fds_after": 57}, "open files grew"),
        ({"held": [Held(0, 10**8), Held(1, 2 * 10**8)]}, "memory grew"),
        ({"exit_status": 1}, "the server did not drain"),
        ({"left_behind": 1}, "processes were left behind"),
        ({"statuses": {"200": 10, "503 no_worker": 90}}, "nothing was answered"),
    ],
)
def test_a_report_says_what_is_wrong(change: dict, problem: str | None) -> None:
    report = msgspec.structs.replace(GOOD, **change)
    assert report.problems == ([] if problem is None else [problem])
    assert report.table().row_count > 10


def test_a_slope_is_of_the_second_half() -> None:
    held = [Held(float(i), 10**8 + (1000 * i if i >= 50 else 10**6 * i)) for i in range(100)]
    assert msgspec.structs.replace(GOOD, held=held).slope_bytes_per_h == pytest.approx(3.6e6)
