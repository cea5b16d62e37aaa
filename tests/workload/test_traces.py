import numpy as np
import pytest

from poise.errors import ConfigError
from poise.workload import parse_trace, slice_trace


@pytest.mark.parametrize("text", ["3\n0\n12\n", "3\r\n0\r\n12", " 3\n0 \n12\n\n\n"])
def test_parse(text):
    assert parse_trace(text).tolist() == [3.0, 0.0, 12.0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1\n2.5\n3", 2),
        ("1\n\n3", 2),
        ("-1", 1),
        ("1\n2\nmany", 3),
        ("1\n99999999999", 2),
        ("1\n20000000\n1", 2),
        ("1\n٣", 2),
        ("1e3", 1),
    ],
)
def test_a_broken_line_is_named(text, line):
    with pytest.raises(ConfigError) as error:
        parse_trace(text, "t.txt")
    assert error.value.line == line
    assert str(error.value).startswith(f"t.txt:{line}: ")


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_trace(text):
    with pytest.raises(ConfigError, match="empty"):
        parse_trace(text)


def test_slice():
    rates = np.arange(10.0)
    assert slice_trace(rates, from_s=2, duration_s=3, scale=2.0).tolist() == [4.0, 6.0, 8.0]
    assert slice_trace(rates, from_s=7).tolist() == [7.0, 8.0, 9.0]
    assert len(slice_trace(rates, duration_s=2.5)) == 3


@pytest.mark.parametrize("asked", [{"from_s": 10}, {"from_s": 8, "duration_s": 3.0}, {"duration_s": 11.0}])
def test_a_slice_outside_the_trace(asked):
    with pytest.raises(ConfigError, match="leaves the trace"):
        slice_trace(np.arange(10.0), **asked)
