"""BYTES and BF16 from a client over both protocols, through shared memory and a model, and back."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tests.servers import POISE, Server, serving

from poise.domain.slots import slots_of
from poise.errors import ConfigError
from poise.files import open_service
from poise.files.arrays import load_labelled
from poise.runtimes import open_variant

MODEL = """
import numpy as np


class Model:
    def __init__(self):
        self.stages = {"text": self.text, "half": self.half, "both": self.both}

    def text(self, given):
        words = given["word"]
        assert words.dtype == object and all(isinstance(word, bytes) for word in words.ravel()), words
        long = b"long" in words
        turned = [word[::-1] * (3 if long else 1) for word in words.ravel()]
        return {"drow": np.array(turned, KIND).reshape(words.shape), "third": np.zeros((len(words), 2), np.float32)}

    def half(self, given):
        assert given["half"].dtype == np.float32
        words = np.array([[""] * 2] * len(given["half"]), KIND)
        return {"drow": words, "third": given["half"] / np.float32(3)}

    def both(self, given):
        return {**self.text(given), "third": self.half(given)["third"]}


def load(folder, threads, device):
    return Model()
"""


def write_service(folder: Path, kind: str = "object") -> Path:
    """A service that turns words around and takes the third of numbers. ``kind``: the strings that its model gives."""
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL.replace("KIND", kind))
    text = {"datatype": "BYTES", "shape": [2], "max_bytes": 9}
    half = {"datatype": "BF16", "shape": [2]}
    graphs = {"text": "text", "half": "half", "text+half": "both"}
    service = {
        "format": 1,
        "service": "turn",
        "modalities": {"text": {"inputs": {"word": text}}, "half": {"inputs": {"half": half}}},
        "outputs": {"drow": text, "third": half},
        "variants": {
            "only": {"runtime": "python", "module": "model.py", "factory": "load", "graphs": graphs}
        },
        "classes": {"patient": {"latency_slo_ms": 600_000}},
        "budget": {"cores": 1},
        "scheduler": {"max_batch": 8},
    }
    (folder / "service.yaml").write_text(json.dumps(service))
    sets = [label.split("+") for label in graphs]
    points = [{"batch": batch, "mean_s": 0.001} for batch in (1, 8)]
    profile = {
        "format": 1,
        "service": "turn",
        "variants": [
            {
                "name": "only",
                "modes": [{"modalities": names, "accuracy": len(names) / 2, "samples": 1} for names in sets],
                "stages": [
                    {"name": "+".join(names), "modality_sets": [names], "latency": points} for names in sets
                ],
            }
        ],
    }
    (folder / "profile.json").write_text(json.dumps(profile))
    return folder


@pytest.fixture(scope="module")
def turn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(write_service(tmp_path_factory.mktemp("turn") / "turn")) as running:
        yield running


WORDS = np.array([[b"abc", b""], [b"\xff\x00", "grün".encode()]], object)
NUMBERS = np.array([[1.0, 2.5], [-3e38, 0.1]], np.float32)


def ask(server: Server, kind: Any, **outputs: Any) -> Any:
    address = server.address if kind is tritonclient.http else server.grpc_address
    inputs = [kind.InferInput("word", [2, 2], "BYTES"), kind.InferInput("half", [2, 2], "BF16")]
    inputs[0].set_data_from_numpy(WORDS)
    inputs[1].set_data_from_numpy(NUMBERS.astype(ml_dtypes.bfloat16))
    with kind.InferenceServerClient(address) as client:
        return client.infer("turn", inputs, **outputs)


@pytest.mark.parametrize("kind", [tritonclient.http, tritonclient.grpc])
def test_words_and_short_numbers_over_both_protocols(turn, kind):
    answer = ask(turn, kind)
    assert answer.as_numpy("drow").tolist() == [[b"cba", b""], [b"\x00\xff", "grün".encode()[::-1]]]
    third = (NUMBERS.astype(ml_dtypes.bfloat16).astype(np.float32) / np.float32(3)).astype(ml_dtypes.bfloat16)
    got = np.asarray(answer.as_numpy("third"))
    np.testing.assert_array_equal(got.astype(np.float32), third.astype(np.float32))


def json_request(words: list[str], items: int = 1) -> dict:
    tensor = {"name": "word", "datatype": "BYTES", "shape": [items, 2], "data": words}
    return {"inputs": [tensor], "outputs": [{"name": "drow"}]}


def test_words_in_json_and_modalities_left_out(turn):
    status, answer = turn.post(json_request(["grün", ""]))
    assert status == 400  # turned around, that is no UTF-8 any more
    status, answer = turn.post(json_request(["äbc"[1:], 'x\n"']))
    assert (status, answer["outputs"][0]["data"]) == (200, ["cb", '"\nx'])
    status, answer = turn.post(json_request(["0123456789", ""]))
    assert (status, answer["error"]) == (400, "input 'word': got an element of 10 bytes, expected at most 9")


def test_an_answer_longer_than_declared_is_the_models_fault(turn):
    status, answer = turn.post(json_request(["long", "long"]))
    assert (status, answer["reason"]) == (500, "model_failed")
    assert "got an element of 12 bytes, expected at most 9" in turn.log()
    assert turn.post(json_request(["abc", "d"]))[0] == 200


def test_many_words_in_large_json(turn):
    words = [f"w{number:06d}" for number in range(12_000)]
    status, answer = turn.post(json_request(words * 3, 18_000))
    assert (status, answer["error"][:60]) == (
        413,
        "input 'word': got 36000 elements of BYTES, expected at most ",
    )
    for count in range(0, 3):
        some = words[count : count + 4000]
        status, answer = turn.post(json_request([f"{word:>9}" for word in some], 2000))
        assert status == 200
        assert answer["outputs"][0]["data"] == [f"{word:>9}"[::-1] for word in some]


def test_metadata_and_configuration(turn):
    told = json.loads(turn.request("GET", "/v2/models/turn")[2])
    assert [(tensor["name"], tensor["datatype"]) for tensor in told["inputs"]] == [
        ("word", "BYTES"),
        ("half", "BF16"),
    ]
    config = json.loads(turn.request("GET", "/v2/models/turn/config")[2])
    assert [tensor["data_type"] for tensor in config["input"]] == ["TYPE_STRING", "TYPE_BF16"]


@pytest.mark.parametrize("kind", ["object", "np.bytes_", "np.str_"])
def test_a_model_may_give_strings_of_any_kind(tmp_path, kind):
    folder = open_service(write_service(tmp_path / "turn", kind))
    runner = open_variant(folder.service, "only", folder.resolve)
    assert runner is not None
    if kind != "np.str_":
        np.savez(tmp_path / "items.npz", word=np.array([["ab", "c"]]), half=NUMBERS[:1], label=np.zeros(1))
        items = load_labelled(tmp_path / "items.npz", folder.service)
        rows, masks = np.zeros(1, np.int64), np.array([3])
        outputs, _ = runner.run(items.inputs, rows, masks)
        assert outputs["drow"].tolist() == [[b"ba", b"c"]]


def test_validation_items_that_are_too_long(tmp_path):
    folder = open_service(write_service(tmp_path / "turn"))
    np.savez(tmp_path / "items.npz", word=np.array([["a" * 10, "c"]]), half=NUMBERS[:1], label=np.zeros(1))
    with pytest.raises(
        ConfigError, match=re.escape("items.npz: word: array 'word': got an element of 10 bytes")
    ):
        load_labelled(tmp_path / "items.npz", folder.service)


SCORE = """
import numpy as np

def score(outputs, labels):
    return np.array([word == str(label).encode()[::-1] for word, label in zip(outputs["drow"][:, 0], labels)], float)
"""


@pytest.mark.slow
def test_a_service_of_text_is_checked_and_profiled(tmp_path):
    folder = write_service(tmp_path / "turn")
    service = json.loads((folder / "service.yaml").read_text())
    service |= {"validation": "items.npz", "metric": "python:score:score"}
    (folder / "service.yaml").write_text(json.dumps(service))
    (folder / "profile.json").unlink()
    (folder / "score.py").write_text(SCORE)
    words = np.array([[f"ü{number}", ""] for number in range(40)])
    half = np.zeros((40, 2), np.float32)
    np.savez(folder / "items.npz", word=words, half=half, label=words[:, 0])
    for command in ("check", "profile"):
        subprocess.run([*POISE, command, str(folder)], check=True, timeout=100)
    (variant,) = json.loads((folder / "profile.json").read_text())["variants"]
    accuracy = {"+".join(sorted(mode["modalities"])): mode["accuracy"] for mode in variant["modes"]}
    assert accuracy == {"text": 1.0, "half": 0.0, "half+text": 1.0}


# ONNX


def field(number: int, value: bytes | int) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


def onnx_identity(datatype: int) -> bytes:
    """A graph that gives what it takes: ``out`` is ``word``, [n, 2] of an ONNX datatype."""
    size = field(1, field(2, b"n")) + field(1, field(1, 2))
    kind = field(1, field(1, datatype) + field(2, size))
    node = field(1, b"word") + field(2, b"out") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"g")
    graph += field(11, field(1, b"word") + field(2, kind)) + field(12, field(1, b"out") + field(2, kind))
    return (
        field(1, 8)
        + bytes([7 << 3 | 2, len(graph) & 0x7F | 0x80, len(graph) >> 7])
        + graph
        + field(8, field(2, 13))
    )


STRING, FLOAT, BFLOAT16 = 8, 1, 16


def onnx_service(folder: Path, spec: dict[str, Any], datatype: int) -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(onnx_identity(datatype))
    service = {
        "format": 1,
        "service": "same",
        "modalities": {"text": {"inputs": {"word": spec}}},
        "outputs": {"out": spec},
        "variants": {"only": {"runtime": "onnx", "graphs": {"text": "model.onnx"}}},
    }
    (folder / "service.yaml").write_text(json.dumps(service))
    return folder


TEXT = {"datatype": "BYTES", "shape": [2], "max_bytes": 9}
HALF = {"datatype": "BF16", "shape": [2]}


def test_an_onnx_graph_of_strings(tmp_path):
    folder = open_service(onnx_service(tmp_path / "same", TEXT, STRING))
    runner = open_variant(folder.service, "only", folder.resolve)
    words = slots_of(["grün".encode(), b"", b"a", b"\xff"], 9).reshape(2, 2)
    outputs, _ = runner.run({"word": words}, np.arange(2), np.array([1, 1]))
    assert outputs["out"].tolist() == [["grün", ""], ["a", "\ufffd"]]


def test_an_onnx_graph_for_bf16_computes_in_fp32(tmp_path):
    folder = open_service(onnx_service(tmp_path / "same", HALF, FLOAT))
    runner = open_variant(folder.service, "only", folder.resolve)
    outputs, _ = runner.run({"word": NUMBERS}, np.arange(2), np.array([1, 1]))
    np.testing.assert_array_equal(outputs["out"], NUMBERS)
    other = open_service(onnx_service(tmp_path / "other", HALF, BFLOAT16))
    with pytest.raises(ConfigError, match="expected FP32, which BF16 is computed in"):
        open_variant(other.service, "only", other.resolve)


def test_an_onnx_graph_of_numbers_for_text_is_refused(tmp_path):
    folder = open_service(onnx_service(tmp_path / "same", TEXT, FLOAT))
    with pytest.raises(ConfigError, match="input 'word' is FP32, expected BYTES"):
        open_variant(folder.service, "only", folder.resolve)
