"""Log lines: one JSON object a line whatever is logged."""

import io
import json
import logging
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.telemetry.logs import JsonLines, Level, Throttle, configure_logging

log = logging.getLogger("tests.telemetry")


@pytest.fixture
def restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def record(message: str, *args: object, exc_info=None, **fields: object) -> logging.LogRecord:
    found = logging.LogRecord("some.logger", logging.WARNING, "file.py", 1, message, args, exc_info)
    vars(found).update(fields)
    return found


def test_a_line_has_time_level_logger_message_and_the_fields():
    line = json.loads(JsonLines().format(record("worker %d was lost", 3, worker=3, variants=("a", "b"))))
    at = datetime.fromisoformat(line.pop("time"))
    assert at.tzinfo is UTC or at.utcoffset() == timedelta(0)
    assert line == {
        "level": "warning",
        "logger": "some.logger",
        "message": "worker 3 was lost",
        "worker": 3,
        "variants": ["a", "b"],
    }


def test_an_exception_is_a_field_of_the_one_line():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        text = JsonLines().format(record("it failed", exc_info=sys.exc_info()))
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == "it failed"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: first\nsecond")


def test_a_field_does_not_take_the_place_of_the_message():
    fields = {"level": "mine", "logger": "mine", "time": "mine"}
    line = json.loads(JsonLines().format(record("words", **fields)))
    assert (line["level"], line["logger"], line["message"]) == ("warning", "some.logger", "words")
    assert line["time"] != "mine"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.tuples(st.integers()), inner),
    max_leaves=8,
)


@given(st.text(st.characters()), anything)
def test_whatever_is_logged_is_one_line_of_json(message, value):
    text = JsonLines().format(record(message.replace("%", ""), field=value))
    assert "\n" not in text
    assert "\r" not in text
    line = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert line["level"] == "warning"
    assert "field" in line
    text.encode()


def test_lines_of_one_wording_are_left_out_after_some_and_told_of():
    now_s = 100.0
    throttle = Throttle(3, lambda: now_s)

    def kept(message: str, *args: object) -> str | None:
        one = record(message, *args)
        return one.getMessage() if throttle.filter(one) else None

    assert [kept("batch %d failed", number) for number in range(5)] == [
        "batch 0 failed",
        "batch 1 failed",
        "batch 2 failed (more lines like this are left out for up to 60 s)",
        None,
        None,
    ]
    assert kept("another") == "another"
    now_s += 59
    assert kept("batch %d failed", 7) is None
    now_s += 1
    assert kept("batch %d failed", 8) == "batch 8 failed"


def test_levels_and_forms(restored):
    wanted: list[tuple[Level, int]] = [("info", 2), ("warning", 1), ("error", 0)]
    for level, shown in wanted:
        for as_json in (True, False):
            stream = io.StringIO()
            configure_logging(level, as_json=as_json, stream=stream)
            log.debug("never")
            log.info("one", extra={"worker": 1})
            log.warning("two")
            lines = stream.getvalue().splitlines()
            assert len(lines) == shown, (level, as_json)
            if as_json and shown == 2:
                assert json.loads(lines[0])["worker"] == 1
            elif shown == 2:
                assert lines == ["INFO tests.telemetry: one", "WARNING tests.telemetry: two"]
