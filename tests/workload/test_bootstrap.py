import numpy as np
import pytest

from poise.workload import bootstrap_interval, bootstrap_mean


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_values_all_alike_leave_no_doubt():
    interval = bootstrap_interval(np.ones(50), np.arange(50), rng())
    assert (interval.low, interval.high, interval.level) == (1.0, 1.0, 0.95)


def test_distinct_items_spread_as_the_binomial_does():
    values = np.repeat([0.0, 1.0], [200, 800])
    means = bootstrap_mean(values, np.arange(1000), rng(), 4000)
    assert means.mean() == pytest.approx(0.8, abs=0.005)
    assert means.std() == pytest.approx(np.sqrt(0.16 / 1000), rel=0.1)
    assert (np.diff(means) >= 0).all()


def test_sending_an_item_again_adds_no_confidence():
    values, items = np.repeat([0.0, 1.0], [20, 80]), np.arange(100)
    once = bootstrap_mean(values, items, rng(), 2000)
    often = bootstrap_mean(np.tile(values, 50), np.tile(items, 50), rng(), 2000)
    assert often.std() == pytest.approx(once.std(), rel=0.1)


def test_groups_are_names_not_positions():
    values = np.array([1.0, 0.0, 1.0])
    named = bootstrap_mean(values, np.array([90, 7, 90]), rng(), 100)
    assert np.array_equal(named, bootstrap_mean(values, np.array([1, 0, 1]), rng(), 100))


def test_blocks_do_not_change_how_many(monkeypatch):
    monkeypatch.setattr("poise.workload.bootstrap._BLOCK", 30)
    assert len(bootstrap_mean(np.arange(10.0), np.arange(10), rng(), 101)) == 101


@pytest.mark.parametrize(("values", "groups"), [([], []), ([1.0], [1, 2])])
def test_what_cannot_be_resampled(values, groups):
    with pytest.raises(ValueError, match="expected as many"):
        bootstrap_mean(np.array(values), np.array(groups, np.int64), rng())
