"""What the comparison of servers reckons: batches of the bare loop, requests, cells, settings, labels."""

import base64
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.load.connections import Reply, parse_url

wires: Any = import_module("serving.wires")
seen: Any = import_module("serving.seen")
systems: Any = import_module("serving.systems")
choose = import_module("serving.bare").choose
Cells: Any = import_module("serving.cells").Cells
Served: Any = import_module("serving.served").Served
apart = import_module("serving.plot").apart

TIMES = np.array([4.0, 5.0, 7.0, 9.0])


def test_the_bare_loop_takes_the_largest_batch_whose_members_are_in_time():
    # Three of the five have 7 or more left, as a batch of three takes; a batch of four takes 9, and two have that.
    assert choose(np.array([1.0, 6.0, 7.0, 9.0, 9.5]), TIMES) == range(2, 5)
    assert choose(np.array([9.0, 9.0, 9.0, 9.0, 9.0]), TIMES) == range(4)
    assert choose(np.array([3.9]), TIMES) == range(0)


@given(st.lists(st.floats(0, 12), max_size=7))
def test_the_bare_loop_never_runs_what_is_late_nor_less_than_it_could(left):
    waiting = np.sort(np.array(left, float))
    chosen = choose(waiting, TIMES)
    assert all(waiting[place] >= TIMES[len(chosen) - 1] for place in chosen)
    possible = [size for size in range(1, 5) if (waiting >= TIMES[size - 1]).sum() >= size]
    assert len(chosen) == max(possible, default=0)


@pytest.mark.parametrize("wire", wires.TYPES)
def test_a_request_carries_the_item_and_says_how_long_it_is(wire):
    item = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    ((head, body),) = wires.requests(wire, parse_url("http://localhost:80"), "/there", item)
    lines = head.decode().split("\r\n")
    assert (
        lines[0] == "POST /there HTTP/1.1"
        and f"Content-Length: {len(body)}" in lines
        and lines[-2:] == ["", ""]
    )
    content = body
    if wire == "binary":
        length = int(next(line.split(": ")[1] for line in lines if line.startswith("Inference-Header")))
        assert msgspec.json.decode(body[:length])["inputs"][0]["shape"] == [1, 2, 3]
        content = body[length:]
    elif wire == "json":
        content = base64.b64decode(msgspec.json.decode(body)["items"][0])
    elif wire == "protocol_json":
        content = base64.b64decode(msgspec.json.decode(body)["inputs"][0]["data"][0])
    assert content == item.tobytes()


def test_answers_are_read_from_each_form():
    numbers = np.array([1.5, -2.0], np.float32)
    text = base64.b64encode(numbers.tobytes()).decode()
    bodies = {
        "raw": (numbers.tobytes(), None),
        "binary": (b"{}" + numbers.tobytes(), 2),
        "json": (msgspec.json.encode([text]), None),
        "protocol_json": (msgspec.json.encode({"outputs": [{"data": [text]}]}), None),
    }
    for wire, (body, length) in bodies.items():
        np.testing.assert_array_equal(wires.answer(wire, Reply(200, body, 0.0, length)), numbers)


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        ("raw", b"123"),
        ("binary", b"{}"),
        ("json", b'["%"]'),
        ("json", b"[]"),
        ("protocol_json", b'{"outputs":[]}'),
    ],
)
def test_what_is_no_answer_is_told(wire, body):
    with pytest.raises(ValueError, match=r"\S"):
        wires.answer(wire, Reply(200, body, 0.0))


def test_a_cut_off_cell_is_forgotten_and_the_rest_is_known(tmp_path: Path):
    file = tmp_path / "cells.jsonl"
    cells = Cells(file)
    assert cells.once("a", int, lambda: 1) == 1
    assert cells.once("a", int, lambda: 2) == 1
    with file.open("ab") as end:
        end.write(b'{"key":"b","val')
    again = Cells(file)
    assert "a" in again and "b" not in again
    assert again.once("b", int, lambda: 3) == 3
    assert Cells(file).once("b", int, lambda: 4) == 3
    again.complete()
    assert len(Cells(file)) == 0


def test_everybody_is_sent_the_same_arrivals(tmp_path: Path):
    reference = tmp_path / "reference.npz"
    np.savez(reference, items=np.zeros((5, 1)))
    spec = seen.LoadSpec(rate_rps=50.0, duration_s=4.0, seed=3, slo_s=0.1, reference=str(reference))
    times, items = seen.arrivals_of(spec)
    again_times, again_items = seen.arrivals_of(
        msgspec.structs.replace(spec, url="http://elsewhere", wire="raw")
    )
    np.testing.assert_array_equal(times, again_times)
    np.testing.assert_array_equal(items, again_items)
    assert 150 < len(times) < 250 and set(items) == set(range(5))


def test_a_queue_is_as_long_as_what_is_still_in_time():
    made = Served(
        Path(), Path(), Path(), Path(), (5, 512), 0.1, tuple(0.004 + 0.001 * n for n in range(1, 33))
    )
    found = systems.System("somebody", "raw", "/", max_batch=16, timeout="wait").settings(made)
    # A batch of 16 takes 20 ms: with 56 waiting behind one that runs, the last is done after 90 ms.
    assert found.queue == 56 and found.timeout_ms == 80
    without = systems.System("somebody", "raw", "/", bounded=False, timeout=None).settings(made)
    assert without.queue is None and without.timeout_ms is None


@pytest.mark.parametrize("peer", systems.PEER_SYSTEMS, ids=lambda peer: peer.name)
def test_each_peer_has_a_script_and_pinned_versions(peer):
    folder = Path(wires.__file__).parent / "peers"
    assert (folder / f"{peer.name}.sh").stat().st_mode & 0o100
    lines = (folder / f"{peer.name}.lock").read_text().splitlines()
    assert lines and all("==" in line and "://" not in line for line in lines)
    assert any(line.startswith("onnxruntime==") for line in lines)


def test_labels_are_movedapart():
    placed = apart([(10.0, "a"), (10.5, "b"), (20.0, "c")], 2.0)
    assert placed == [(10.0, "a"), (12.0, "b"), (20.0, "c")]
