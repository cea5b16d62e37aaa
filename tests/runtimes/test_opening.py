"""A variant that cannot be used is refused when it is opened, and the error says what, where and why."""

from __future__ import annotations

import msgspec
import pytest
from tests.runtimes.conftest import with_variant
from tests.tiny import copy_of_tiny

from poise.domain.service import Modality, TensorSpec
from poise.errors import ConfigError
from poise.files import ServiceFolder, open_service
from poise.runtimes import open_variant


def refusal(folder: ServiceFolder, service=None, variant="late", **options) -> str:
    with pytest.raises(ConfigError) as caught:
        open_variant(service or folder.service, variant, folder.resolve, **options)
    return str(caught.value)


def with_encoder(folder: ServiceFolder, path: str):
    encoders = folder.service.variants["late"].encoders | {"sound": path}
    return with_variant(folder.service, encoders=encoders)


def with_sound(folder: ServiceFolder, **tensors: TensorSpec):
    modalities = folder.service.modalities | {"sound": Modality(inputs=tensors)}
    return msgspec.structs.replace(folder.service, modalities=modalities)


SOUND = "late/sound.onnx: variants.late.encoders.sound: "
HEAD = "late/head.onnx: variants.late.head: "


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"wave": TensorSpec(datatype="FP32", shape=(5,))},
            "input 'wave' has shape [n, 4], expected [n, 5]",
        ),
        (
            {"wave": TensorSpec(datatype="FP32", shape=(4, 1))},
            "input 'wave' has shape [n, 4], expected [n, 4, 1]",
        ),
        (
            {"wave": TensorSpec(datatype="FP64", shape=(4,))},
            "input 'wave' is FP32, expected FP64",
        ),
        (
            {"waves": TensorSpec(datatype="FP32", shape=(4,))},
            "the graph has no input 'waves' (it has 'wave'), expected inputs 'waves'",
        ),
        (
            {"wave": TensorSpec(datatype="FP32", shape=(-1,), buckets=(4, 8))},
            "input 'wave' has shape [n, 4], expected [n, any]",
        ),
    ],
)
def test_inputs_that_are_not_the_modality_s(tiny, tensors, message):
    text = refusal(tiny, with_sound(tiny, **tensors))
    assert text == SOUND + message


def test_an_input_that_the_modality_does_not_have(tiny):
    word = Modality(inputs={"letters": TensorSpec(datatype="INT64", shape=(2,))})
    service = msgspec.structs.replace(tiny.service, modalities=tiny.service.modalities | {"word": word})
    assert "word.onnx: variants.late.encoders.word: the graph has an input 'length'" in refusal(tiny, service)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            {"logits": TensorSpec(datatype="FP32", shape=(4,))},
            "output 'logits' has shape [n, 5], expected [n, 4]",
        ),
        (
            {"logits": TensorSpec(datatype="INT64", shape=(5,))},
            "output 'logits' is FP32, expected INT64",
        ),
        (
            {"classes": TensorSpec(datatype="FP32", shape=(5,))},
            "the graph has no output 'classes' (it has 'logits', 'score'), expected outputs 'classes'",
        ),
    ],
)
def test_outputs_that_are_not_the_service_s(tiny, outputs, message):
    service = msgspec.structs.replace(tiny.service, outputs=outputs)
    assert refusal(tiny, service) == HEAD + message
    assert refusal(tiny, service, "whole") == "whole/sound.onnx: variants.whole.graphs.sound: " + message


def test_outputs_that_the_service_does_not_name_are_left_alone(tiny):
    service = msgspec.structs.replace(tiny.service, outputs={"score": tiny.service.outputs["score"]})
    assert open_variant(service, "late", tiny.resolve).stage_names[-1] == "head"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "odd/fixed_batch.onnx",
            "input 'wave' has shape [1, 4], expected a free first dimension, for the batch",
        ),
        (
            "odd/two_outputs.onnx",
            "the encoder has outputs ['embedding', 'again'], expected one, the embedding",
        ),
        ("head", "the graph has no input 'wave'"),
    ],
)
def test_encoders_that_are_none(tiny, path, message):
    path = "late/head.onnx" if path == "head" else path
    assert refusal(tiny, with_encoder(tiny, path)).startswith(
        f"{path}: variants.late.encoders.sound: {message}"
    )


def test_an_embedding_that_the_head_does_not_take(tiny):
    text = refusal(tiny, with_encoder(tiny, "odd/wide.onnx"))
    assert text == HEAD + "input 'sound' has shape [n, 5], expected [n, 10]"


def test_a_graph_that_gives_another_shape_than_it_says(tiny):
    text = refusal(tiny, with_variant(tiny.service, head="odd/four_logits.onnx"))
    assert text.endswith("output 'logits' of a batch of 2 has shape [2, 4], expected [2, 5]")


def test_a_head_that_is_a_whole_graph(tiny):
    text = refusal(tiny, with_variant(tiny.service, head="whole/sound.onnx"))
    assert "the graph has no input 'image' (it has 'wave')" in text


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_corrupt_model(tmp_path, content):
    copy_of_tiny(tmp_path / "tiny")
    folder = open_service(tmp_path / "tiny")
    file = tmp_path / "tiny" / "late" / "sound.onnx"
    file.write_bytes(file.read_bytes()[:100] if content is None else content)
    text = refusal(folder)
    assert text.startswith(SOUND + "not a model that ONNX Runtime can load: ")
    assert text.endswith(", expected an ONNX file")


def test_a_missing_model(tiny):
    text = refusal(tiny, with_encoder(tiny, "late/none.onnx"))
    assert text == (
        "service.yaml: variants.late.encoders.sound: file 'late/none.onnx' is missing, expected a file"
    )


def test_an_unknown_variant(tiny):
    assert "got variant 'huge', expected one of late, whole" in refusal(tiny, variant="huge")


def test_a_device_that_is_not_declared(tiny):
    assert "asked for on cuda, expected one of cpu" in refusal(tiny, device="cuda")


def test_a_device_that_is_not_here(tiny):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it is here")
    service = with_variant(tiny.service, devices=("cpu", "cuda"))
    assert "this ONNX Runtime has no CUDAExecutionProvider" in refusal(tiny, service, device="cuda")
