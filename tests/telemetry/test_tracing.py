"""Which requests are traced, by W3C's rules."""

import itertools
import re
import sys
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.cli.server_settings import Flags, server_file_of, settings_of
from poise.errors import ConfigError
from poise.serving.deployment import CellSettings
from poise.telemetry.otel import traces_url
from poise.telemetry.tracing import MOST_A_SECOND, Sampler, TraceContext, Tracing, open_tracer

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONTEXT = TraceContext(int(TRACE, 16), int(PARENT, 16))


def never() -> Sampler:
    return Sampler(0.0, Random(1))


def always() -> Sampler:
    return Sampler(1.0, Random(1))


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-{PARENT}-01",
        f" 00-{TRACE}-{PARENT}-01 ",
        f"00-{TRACE}-{PARENT}-ff",
        f"01-{TRACE}-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01-what-the-future-brings",
    ],
)
def test_what_a_client_traces_is_traced_as_its_child(header):
    assert never().decide(header) == CONTEXT


@pytest.mark.parametrize("flags", ["00", "02", "fe"])
def test_what_a_client_does_not_trace_is_not_traced(flags):
    assert always().decide(f"00-{TRACE}-{PARENT}-{flags}") is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-1",
        f"cc-{TRACE}-{PARENT}-01.more",
    ],
)
def test_a_header_that_is_not_right_is_as_none(header):
    assert never().decide(header) is None
    found = always().decide(header)
    assert found is not None
    assert found.parent_id == 0
    assert found.trace_id != CONTEXT.trace_id


@given(st.text())
def test_no_header_does_harm(header):
    found = always().decide(header)
    assert found is None or 0 < found.trace_id < 2**128


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_share_of_what_clients_say_nothing_of_is_traced(share):
    ticks = itertools.count()  # a request a second
    sampler = Sampler(share, Random(1), lambda: float(next(ticks)))
    found = [sampler.decide(None) for _ in range(4000)]
    traces = [context.trace_id for context in found if context is not None]
    assert len(set(traces)) == len(traces)
    assert len(traces) == pytest.approx(4000 * share, abs=120 if 0 < share < 1 else 0)


def test_no_more_are_traced_in_a_second_than_the_cap():
    now_s = 5.0
    sampler = Sampler(1.0, Random(1), lambda: now_s)
    header = f"00-{TRACE}-{PARENT}-01"
    asked = [header, None] * MOST_A_SECOND
    assert sum(sampler.decide(each) is not None for each in asked) == MOST_A_SECOND
    now_s += 0.9
    assert sampler.decide(header) is None
    now_s += 0.1
    assert sampler.decide(header) == CONTEXT


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="expected http"):
        Tracing(endpoint="collector:4317")
    with pytest.raises(ValueError, match="from 0 to 1"):
        Tracing(endpoint="http://collector:4318", sample_frac=1.1)


@pytest.mark.parametrize("flags", [{"otel_endpoint": "collector:4318"}, {"otel_endpoint": "ftp://c"}])
def test_flags_that_cannot_be_are_refused(flags):
    with pytest.raises(ConfigError, match="otel_endpoint"):
        settings_of(server_file_of(Flags(**flags)), CellSettings())


def test_flags_beat_the_file(tmp_path):
    file = tmp_path / "server.yaml"
    file.write_text("format: 1\ntelemetry: {otel_endpoint: 'http://a:4318', sample_frac: 0.5}\n")

    def tracing(**flags: Any) -> Tracing | None:
        return settings_of(server_file_of(Flags(config=file, **flags)), CellSettings()).tracing

    assert tracing() == Tracing(endpoint="http://a:4318", sample_frac=0.5)
    assert tracing(sample_frac=0.0) == Tracing(endpoint="http://a:4318", sample_frac=0.0)
    assert tracing(otel_endpoint="http://b") == Tracing(endpoint="http://b", sample_frac=0.5)
    assert tracing(otel_endpoint="") is None


def test_without_the_packages_it_is_said_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "poise.telemetry.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=re.escape("poise[otel]")):
        open_tracer(Tracing(endpoint="http://127.0.0.1:9"))


def test_an_endpoint_without_a_path_has_the_standards():
    assert traces_url("http://collector:4318") == "http://collector:4318/v1/traces"
    assert traces_url("https://collector:4318/") == "https://collector:4318/v1/traces"
    assert traces_url("http://gateway/otlp/v1/traces") == "http://gateway/otlp/v1/traces"
