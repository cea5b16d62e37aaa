"""Every error of a broken file names the file, the line, the field and what was expected."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import TINY

from poise.domain.decoding import decode_json, decode_yaml
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.errors import ConfigError

SERVICE = (TINY / "service.yaml").read_text()
PROFILE = (TINY / "profile.json").read_text()


def line_of(text: str, piece: str) -> int:
    return text[: text.index(piece)].count("\n") + 1


def refusal_of_service(old: str, new: str) -> ConfigError:
    assert old in SERVICE
    with pytest.raises(ConfigError) as caught:
        decode_yaml(SERVICE.replace(old, new, 1), Service, "service.yaml")
    return caught.value


def test_the_tiny_service_decodes():
    service = decode_yaml(SERVICE, Service, "service.yaml")
    assert list(service.modalities) == ["image", "sound", "word"]
    assert service.classes["interactive"].latency_slo_s == 0.1


@pytest.mark.parametrize(
    ("old", "new", "field", "words"),
    [
        ("weight: 2", "wieght: 2", "classes.interactive.wieght", "unknown field 'wieght', expected one of latency_"),
        ("test: test.npz", "tset: test.npz", "tset", "unknown field 'tset', expected one of format, service,"),
        ("runtime: onnx", "runtime: onx", "variants.late.runtime", "got 'onx', expected one of emulated, onnx,"),
        ("runtime: onnx", "runtime: no", "variants.late.runtime", "'no'"),  # a word, as in YAML 1.2
        ("cores: 2", "cores: two", "budget.cores", "expected a whole number, got text"),
        ("max_batch: 8", "max_batch: 0", "scheduler", "got max_batch 0, expected a whole number of at least 1"),
        ("weight: 2", "weight: -2", "classes.interactive", "got weight -2.0, expected a finite number above 0"),
        ("weight: 2", "weight: .nan", "classes.interactive", "got weight nan, expected a finite number above 0"),
        ("weight: 2", "weight: 1e400", "classes.interactive", "got weight inf, expected a finite number above 0"),
        ("accuracy_floor: 0.6", "accuracy_floor: 1.6", "classes.interactive", "expected a number from 0 to 1"),
        ("shape: [4]", "shape: [4, x]", "modalities.sound.inputs.wave.shape[1]", "expected a whole number, got text"),
        ("shape: [4]", "shape: [-1]", "modalities.sound.inputs.wave", "expected buckets exactly where"),
        ("shape: [4]", "shape: [0]", "modalities.sound.inputs.wave", "got shape [0], expected sizes of at least 1"),
        ("FP32, shape: [4]", "FLOAT, shape: [4]", "modalities.sound.inputs.wave.datatype", "'FLOAT'"),
        ("memory: 500MB", "memory: 500 cows", "budget", "got memory '500 cows', expected a positive size"),
        ("    head: late/head.onnx\n", "", "variants.late", "expected encoders and a head together"),
    ],
)  # fmt: skip
def test_a_wrong_field(old, new, field, words):
    error = refusal_of_service(old, new)
    assert error.file == "service.yaml"
    assert error.field == field
    assert words in str(error)
    text = SERVICE.replace(old, new, 1)
    assert error.line == line_of(text, new or "  late:")
    assert str(error).startswith(f"service.yaml:{error.line}: {field}: ")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [("  whole:", "  late:", "late"), ("test: ", "validation: a.npz\ntest: ", "validation")],
)
def test_a_duplicate_key_names_the_line_of_the_second(old, new, key):
    error = refusal_of_service(old, new)
    text = SERVICE.replace(old, new, 1)
    second = text.index(f"{key}:", text.index(f"{key}:") + 1)
    assert error.line == text[:second].count("\n") + 1
    assert str(error) == f"service.yaml:{error.line}: {key}: duplicate key, expected each key once"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("budget: {", "budget: [", "not YAML"),
        ("budget: {", "budget: {x: [}", "not YAML"),
        ("image+sound:", "image+smell:", "modality set 'image+smell' names ['smell'], expected some of"),
        ("sound: late/sound.onnx, ", "", "expected one for each of ['image', 'sound', 'word']"),
        ("  sound: {inputs", "  mask: {inputs", "service.yaml:4: modalities: got name 'mask', expected"),
        (
            "{letters:",
            "{wave:",
            "service.yaml:7: modalities.word: input 'wave' stands in modality 'sound' too, expected one",
        ),
        ("service: tiny", "service: ti ny", "service.yaml:3: service: got 'ti ny', expected 1 to 64 of"),
        ("format: 1\n", "", "missing field 'format', expected it to be given"),
        ("format: 1\n", "format: 2\n", "2"),
        (
            "validation: ",
            "metric: top5\nvalidation: ",
            "metric: got 'top5', expected top1 or python:module:function",
        ),
    ],
)
def test_a_wrong_whole(old, new, words):
    error = refusal_of_service(old, new)
    assert error.file == "service.yaml"
    assert words in str(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a mapping, got nothing (null)"),
        ("[]", "expected a mapping, got a list"),
        ("1: 2", "service.yaml:1: got key 1, expected keys that are text (quote it)"),
        ("&a [*a]", "nested deeper than 32 levels"),
        ("- " * 40 + "x", "nested deeper than 32 levels"),
        ("{" * 100, "not YAML"),
        ("\0", "not YAML"),
        (
            "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)),
            "more than 1000000 values",
        ),
    ],
)
def test_what_is_no_service_at_all(text, words):
    with pytest.raises(ConfigError) as caught:
        decode_yaml(text, Service, "service.yaml")
    assert caught.value.file == "service.yaml"
    assert words in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_a_service_or_a_config_error(text):
    try:
        decode_yaml(text, Service, "service.yaml")
    except ConfigError as error:
        assert str(error).startswith("service.yaml")


@given(st.data())
def test_a_service_with_a_piece_cut_out_is_one_or_a_config_error(data):
    start = data.draw(st.integers(0, len(SERVICE)))
    end = data.draw(st.integers(start, len(SERVICE)))
    try:
        decode_yaml(SERVICE[:start] + SERVICE[end:], Service, "service.yaml")
    except ConfigError as error:
        assert error.file == "service.yaml"


def refusal_of_profile(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        decode_json(text, Profile, "profile.json")
    assert caught.value.file == "profile.json"
    return str(caught.value)


def test_the_tiny_profile_decodes():
    profile = decode_json(PROFILE, Profile, "profile.json")
    assert [variant.name for variant in profile.variants] == ["late", "whole"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"service": 3}, "service: expected text, got a whole number"),
        ({"serivce": "x"}, "serivce: unknown field 'serivce', expected one of format, service,"),
        ({"variants": []}, "expected at least one variant"),
        ({"variants": {}}, "variants: expected a list, got a mapping"),
    ],
)
def test_a_wrong_profile(change, words):
    assert words in refusal_of_profile(json.dumps(json.loads(PROFILE) | change))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"accuracy": 0.5,', '"accuracy": 1.5,', "variants[0].modes[0]: got accuracy 1.5, expected a number"),
        ('"accuracy": 0.5,', '"accuracy": NaN,', "got NaN, expected a finite number"),
        ('"accuracy": 0.5,', '"accuracy": -Infinity,', "got -Infinity, expected a finite number"),
        ('"accuracy": 0.5,', '"accuracy": 0.5, "accuracy": 0.5,', "duplicate key 'accuracy', expected each"),
        ('"accuracy": 0.5,', '"acuracy": 0.5,', "variants[0].modes[0]"),
        ('"batch": 1,', '"batch": 0,', "variants[0].stages[0].latency[0]: got batch 0"),
        ('"runs": 200', '"runs": "many"', "variants[0].stages[0].latency[0].runs"),
        ('"p50_s": ', '"p50_s": 9', "expected quantiles that rise"),
        ('"format": 1,', '"format": 1', "not JSON"),
    ],
)  # fmt: skip
def test_a_wrong_figure(old, new, words):
    assert old in PROFILE
    assert words in refusal_of_profile(PROFILE.replace(old, new, 1))


def test_broken_json_names_its_line():
    line = line_of(PROFILE, '"modes"')
    assert f"profile.json:{line}: not JSON: " in refusal_of_profile(PROFILE.replace('"modes"', "modes", 1))


@given(st.binary(max_size=100))
def test_any_bytes_are_a_profile_or_a_config_error(data):
    with pytest.raises(ConfigError):
        decode_json(data, Profile, "profile.json")
