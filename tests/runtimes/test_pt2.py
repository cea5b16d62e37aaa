"""An archive that holds more than a graph and plain tensors is refused before torch sees it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from poise.errors import ConfigError
from poise.runtimes.pt2 import check_archive
from poise.runtimes.signature import Place

PLACE = Place(file="speech.pt2", field="variants.late.encoders.speech")
SIZE = "Mul(Integer(5), Max(Integer(1), FloorDiv(Add(Symbol('s5', positive=True, integer=True), 1), 2)))"
GRAPH = {
    "graph_module": {
        "graph": {
            "nodes": [{"target": "torch.ops.aten.linear.default"}, {"target": "_operator.getitem"}],
            "tensor_values": {"target": {"sizes": [{"as_expr": {"expr_str": SIZE}}, {"as_int": 4}]}},
        }
    }
}


def archive(path: Path, graph: object = GRAPH, **more: str) -> Path:
    members = {
        "models/model.json": json.dumps(graph),
        "data/weights/weight_0": "raw",
        "data/weights/model_weights_config.json": '{"config": {"w": {"use_pickle": false}}}',
        "data/constants/model_constants_config.json": '{"config": {}}',
        "archive_format": "pt2",
        **{name.replace("__", "/").replace("_dot_", "."): text for name, text in more.items()},
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, text in members.items():
            file.writestr(f"speech/{name}", text)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        check_archive(path, PLACE, None)
    assert str(caught.value).startswith("speech.pt2: variants.late.encoders.speech: ")
    return str(caught.value)


def test_a_graph_and_plain_tensors_pass(tmp_path):
    check_archive(archive(tmp_path / "speech.pt2"), PLACE, None)


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "torch.os.system",
        "torch.ops.mine.run",
        "torch.ops.aten.from_file.default",
        "_operator.attrgetter",
        "_operator.methodcaller",
        "torch.ops.aten.linear.default.__globals__",
        "builtins.eval",
        "#wrapped",
        "",
    ],
)
def test_a_graph_that_calls_something_else_than_an_operator(tmp_path, target):
    graph = {"graph_module": {"graph": {"nodes": [{"target": target}]}}}
    assert f"the graph calls {target!r}, expected ATen operators only" in refusal(
        archive(tmp_path / "speech.pt2", graph)
    )


@pytest.mark.parametrize(
    "size",
    [
        "__import__('os').system('true')",
        "exec(chr(105))",
        "Symbol('s5').__class__",
        "().__class__",
        "Integer(1) if open('x') else 2",
        "[s0 for s0 in Add]",
        "s0_",
        "Symbol('__import__')",
        7,
    ],
)
def test_a_size_that_is_more_than_arithmetic(tmp_path, size):
    graph = {"graph_module": {"graph": {"sym_int_values": {"a": {"as_expr": {"expr_str": size}}}}}}
    assert "expected arithmetic of sizes only" in refusal(archive(tmp_path / "speech.pt2", graph))


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (
            "data__aotinductor__model__code_dot_so",
            "'data/aotinductor/model/code.so', expected a graph and plain",
        ),
        ("data__constants__opaque_obj_0", "'data/constants/opaque_obj_0'"),
        ("data__constants__custom_obj_0", "'data/constants/custom_obj_0'"),
        ("data__weights__model_dot_pt", "'data/weights/model.pt'"),
        ("data_dot_pkl", "'data.pkl'"),
        ("models__other_dot_json", "'models/other.json'"),
    ],
)
def test_a_member_that_would_be_run_or_unpickled(tmp_path, member, message):
    assert message in refusal(archive(tmp_path / "speech.pt2", **{member: "x"}))


def test_weights_that_are_pickled(tmp_path):
    path = archive(
        tmp_path / "speech.pt2",
        data__weights__model_weights_config_dot_json='{"config": {"w": {"use_pickle": true}}}',
    )
    assert "model_weights_config.json names a pickle" in refusal(path)


def test_a_member_that_stands_twice(tmp_path):
    path = archive(tmp_path / "speech.pt2")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("again/models/model.json", "{}")
    assert "stands twice" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04" + b"\0" * 40])
def test_no_archive_at_all(tmp_path, content):
    (tmp_path / "speech.pt2").write_bytes(content)
    assert "not an exported program" in refusal(tmp_path / "speech.pt2")


def test_what_torch_save_writes_is_no_program(tmp_path):
    with zipfile.ZipFile(tmp_path / "speech.pt2", "w") as file:
        file.writestr("archive/data.pkl", "x")
    assert "not an exported program: it has no models/model.json" in refusal(tmp_path / "speech.pt2")
