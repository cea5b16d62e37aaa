"""The search for the highest load."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.simulation.search import highest_load


@given(limit=st.floats(1.5, 900), tolerance=st.floats(0.001, 0.2))
def test_the_answer_holds_and_a_little_more_does_not(limit, tolerance):
    found = highest_load(lambda load: float(load <= limit), 1.0, 1000.0, tolerance=tolerance)
    assert found.ended == "found"
    assert found.load <= limit < found.load * (1 + tolerance) * (1 + 1e-12)
    assert (found.load, 1.0) in [(trial.load, trial.attainment) for trial in found.trials]


def test_attainment_at_the_target_holds():
    found = highest_load(lambda load: 0.99 if load <= 10 else 0.98, 10.0, 20.0, target=0.99)
    assert found.load == 10.0


def test_no_load_or_every_load_is_an_answer():
    assert highest_load(lambda load: 0.5, 1.0, 2.0).ended == "none_holds"
    assert highest_load(lambda load: 0.5, 1.0, 2.0).load == 0.0
    every = highest_load(lambda load: 1.0, 1.0, 2.0)
    assert (every.ended, every.load, len(every.trials)) == ("all_hold", 2.0, 2)


@pytest.mark.parametrize(
    "arguments", [(0.0, 1.0), (2.0, 1.0), (1.0, 2.0, 1.5), (1.0, 2.0, 0.9, 0.0), (1.0, float("inf"))]
)
def test_what_cannot_be_searched(arguments):
    with pytest.raises(ValueError, match="expected"):
        highest_load(lambda load: 1.0, *arguments)
