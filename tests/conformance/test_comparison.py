"""The comparison itself: what is alike, what differs, and that neither a new nor a vanished difference passes."""

import pytest
from tests.conformance.comparison import ABSENT, TEXT, Difference, Known, differences, unexplained

OK = {"status": 200, "body": {"name": "a", "shape": [1, 2]}}
KNOWN = Known(("one*",), "body.name", "a", "b", "names are each server's own")


def test_what_is_alike_differs_nowhere():
    assert not list(differences("one", OK, {"status": 200, "body": {"shape": [1, 2], "name": "a"}}))
    nan = {"status": 200, "body": [float("nan")]}
    assert not list(differences("one", nan, {"status": 200, "body": [float("nan")]}))


@pytest.mark.parametrize(
    ("other", "path", "here"),
    [
        ({"status": 200, "body": {"name": "b", "shape": [1, 2]}}, "body.name", "b"),
        ({"status": 200, "body": {"shape": [1, 2]}}, "body.name", ABSENT),
        ({"status": 200, "body": {"name": "a", "shape": [1, 3]}}, "body.shape.1", 3),
        ({"status": 200, "body": {"name": "a", "shape": [1, 2.0]}}, "body.shape.1", 2.0),
        ({"status": 200, "body": {"name": "a", "shape": [1, True]}}, "body.shape.1", True),
        ({"status": 200, "body": {"name": "a", "shape": [1]}}, "body.shape", [1]),
        ({"status": 404, "body": {"error": "x"}}, "verdict", "404"),
    ],
)
def test_one_difference_is_said_once_with_its_place(other, path, here):
    (difference,) = differences("one", OK, other)
    assert (difference.path, difference.poise) == (path, here)


def test_two_refusals_are_compared_by_status_and_by_what_else_they_say():
    one, other = {"status": 500, "body": {"error": "x"}}, {"status": 400, "body": {"error": "y"}}
    assert [d.path for d in differences("one", one, other)] == ["verdict", "body.error"]


def test_a_known_difference_is_explained_and_another_value_is_not():
    poise, another = ({"status": 200, "body": {"name": name, "shape": [1, 2]}} for name in "bc")
    assert unexplained({"one": OK}, {"one": poise}, [KNOWN]) == ([], [])
    unknown, unmet = unexplained({"one": OK}, {"one": another}, [KNOWN])
    assert unknown == [Difference("one", "body.name", "a", "c")]
    assert len(unmet) == 1


def test_a_difference_that_has_gone_away_is_noticed_for_each_pattern():
    poise = {"status": 200, "body": {"name": "b", "shape": [1, 2]}}
    both = Known(("one", "two"), "body.name", "a", "b", "why")
    unknown, unmet = unexplained({"one": OK, "two": OK}, {"one": poise, "two": OK}, [both])
    assert not unknown
    assert unmet == ["two · body.name: why"]


def test_text_is_any_text_but_none():
    entry = Known(("*",), "error", TEXT, TEXT, "texts are each server's own")
    assert entry.covering(Difference("one", "error", "x", "y"))
    assert not entry.covering(Difference("one", "error", "x", ""))
    assert not entry.covering(Difference("one", "error", ABSENT, "y"))
