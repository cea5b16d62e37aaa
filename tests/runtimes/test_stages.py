"""Which stages a variant has, and which modality sets use them."""

from __future__ import annotations

import msgspec
import pytest
from tests.runtimes.conftest import with_variant

from poise.domain.service import Variant
from poise.errors import ConfigError
from poise.files import declared_sets
from poise.runtimes import mode_labels, stages_of


def test_encoders_and_a_head(tiny):
    service = with_variant(tiny.service, modality_sets=("sound+image", "sound"))
    assert mode_labels(service, "late") == ("sound", "image+sound")
    assert stages_of(service, "late") == (
        ("image", ("image+sound",)),
        ("sound", ("sound", "image+sound")),
        ("head", ("sound", "image+sound")),
    )


def test_graphs(tiny):
    variant = Variant(runtime="onnx", graphs={"word+image": "a.onnx", "sound": "b.onnx"})
    service = msgspec.structs.replace(tiny.service, variants={"late": variant})
    assert stages_of(service, "late") == (("sound", ("sound",)), ("image+word", ("image+word",)))


def test_an_emulated_variant_has_none_here(tiny):
    service = msgspec.structs.replace(tiny.service, variants={"late": Variant(runtime="emulated")})
    assert stages_of(service, "late") == ()


@pytest.mark.parametrize("variant", ["late", "whole"])
def test_labels_are_those_that_the_service_declares(tiny, variant):
    labels = mode_labels(tiny.service, variant)
    assert set(labels) == declared_sets(tiny.service, tiny.service.variants[variant])
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", ["head", "way"])
def test_a_modality_may_not_have_the_name_of_another_stage(tiny, name):
    modalities = {"image": tiny.service.modalities["image"], name: tiny.service.modalities["sound"]}
    late = msgspec.structs.replace(tiny.service.variants["late"], encoders={"image": "a", name: "b"})
    try:
        service = msgspec.structs.replace(tiny.service, modalities=modalities, variants={"late": late})
    except ValueError:
        return  # refused by the service already
    with pytest.raises(ConfigError, match=f"got modality '{name}'"):
        stages_of(service, "late")
