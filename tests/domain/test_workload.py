import pytest

from poise.domain.decoding import decode_yaml
from poise.domain.workload import Arrivals, Deadline, Floor, Items, Workload
from poise.errors import ConfigError

WHOLE = """
format: 1
arrivals: {trace: twitter.txt.xz, from_s: 0, duration_s: 1260, scale: 1.0, within: poisson}
classes: {interactive: 0.7, bulk: 0.3}
items: {dist: normal, mean: 1, sd: 6, min: 1, max: 32}
deadline: {slack_ms: 55}
floor: {uniform: [0.6, 0.743], per: run}
missing: {speech: 0.1}
seed: 1
"""


def test_the_documented_file_decodes():
    workload = decode_yaml(WHOLE, Workload, "workload.yaml")
    assert workload.arrivals == Arrivals(trace="twitter.txt.xz", duration_s=1260)
    assert workload.items == Items(dist="normal", sd=6.0)
    assert workload.deadline == Deadline(slack_ms=55)
    assert workload.deadline.slack_s == 0.055
    assert workload.deadline.fixed_s is None
    assert workload.floor == Floor(uniform=(0.6, 0.743))


def test_the_least_file_decodes():
    workload = decode_yaml("format: 1\narrivals: {process: gamma, rate_rps: 100, cv: 4}", Workload, "w.yaml")
    assert workload.arrivals.duration_s is None
    assert workload.items == Items()
    assert workload.classes == {}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "either a trace or a process"),
        ({"trace": "t", "process": "even", "rate_rps": 1}, "either a trace or a process"),
        ({"process": "even"}, "rate_rps"),
        ({"trace": "t", "rate_rps": 1}, "rate_rps goes with a process"),
        ({"process": "even", "rate_rps": 1, "scale": 2.0}, "go with a trace"),
        ({"process": "even", "rate_rps": 0}, "above 0"),
        ({"process": "even", "rate_rps": float("inf")}, "finite"),
        ({"process": "mmpp", "rate_rps": 1, "burst_factor": 0.5}, "from 1 to 1e"),
        ({"process": "mmpp", "rate_rps": 1, "burst_factor": 1e300}, "from 1 to 1e"),
        ({"process": "mmpp", "rate_rps": 1, "calm_s": 1e-300}, "calm_s 1e-300, expected a number from"),
        ({"process": "gamma", "rate_rps": 1, "cv": 1e200}, "cv 1e[+]?200, expected a number from"),
        ({"trace": "t", "duration_s": 0}, "above 0"),
        ({"trace": ""}, "empty"),
    ],
)
def test_arrivals_that_cannot_be(fields, words):
    with pytest.raises(ValueError, match=words):
        Arrivals(**fields)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Items, {"min": 4, "max": 3}),
        (Items, {"min": 0}),
        (Items, {"dist": "geometric", "mean": 0.5}),
        (Deadline, {}),
        (Deadline, {"slack_ms": 1, "fixed_ms": 1}),
        (Deadline, {"fixed_ms": 0}),
        (Floor, {"uniform": (0.7, 0.6)}),
        (Floor, {"uniform": (0.7, 1.6)}),
    ],
)
def test_fields_that_cannot_be(kind, fields):
    with pytest.raises(ValueError, match="expected"):
        kind(**fields)


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("classes: {a: 0}", "workload.yaml"),
        ("missing: {a: 1.5}", "workload.yaml"),
        ("seed: -1", "workload.yaml"),
        ("colour: red", "workload.yaml:3: colour"),
    ],
)
def test_a_broken_file_names_its_place(line, place):
    text = f"format: 1\narrivals: {{process: even, rate_rps: 1}}\n{line}"
    with pytest.raises(ConfigError) as error:
        decode_yaml(text, Workload, "workload.yaml")
    assert str(error.value).startswith(place)
