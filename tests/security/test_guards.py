"""Each guard in turn is taken away, and its own test must then fail: a test that cannot fail holds nothing."""

import inspect
import re
from pathlib import Path

import pytest
from tests.security import target
from tests.security.guards import GUARDS, Held

SECURITY = Path(__file__).resolve().parents[2] / "SECURITY.md"
GIVEN_UP_S = 0.6
"""So long is waited for what no longer comes; it fails a test that is to fail."""
NOT_ITS_FAILURE = (TypeError, AttributeError, NameError, ImportError)
"""What goes wrong where a guard was not taken away but broken."""


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.name.replace(" ", "-") for guard in GUARDS])
def test_without_its_guard_a_test_fails(guard: Held, request, monkeypatch):
    wanted = set(inspect.signature(guard.test).parameters) - set(guard.given)
    given = guard.given | {name: request.getfixturevalue(name) for name in wanted}
    monkeypatch.setattr(target, "ANSWER_S", GIVEN_UP_S)
    guard.remove(monkeypatch)
    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
        guard.test(**given)
    assert not isinstance(caught.value, NOT_ITS_FAILURE), caught.value


def test_every_guard_has_a_name_of_its_own():
    names = [guard.name for guard in GUARDS]
    assert len(set(names)) == len(names)


def test_the_model_of_threats_names_each_guard_and_its_test():
    rows = dict(re.findall(r"^\| ([^|]+?) \|.*`(\w+)` \|$", SECURITY.read_text(), re.MULTILINE))
    assert rows == {guard.name: guard.test.__name__ for guard in GUARDS}
