import json

import msgspec
from google.protobuf.json_format import ParseDict
from tests.tiny import TINY
from tritonclient.grpc import model_config_pb2

from poise.domain.allocation import Workers
from poise.files import open_service
from poise.protocol.model_config import data_type, model_config
from poise.protocol.wire import wire_of

SERVICE = open_service(TINY).service
WIRE = wire_of(SERVICE, max_items=100)
CONFIG = model_config(
    WIRE,
    SERVICE,
    (Workers(variants=("small",), count=3), Workers(variants=("a", "b"), count=1, device="cuda")),
)


def test_it_says_what_holds():
    assert (CONFIG.name, CONFIG.backend, CONFIG.max_batch_size) == ("tiny", "poise", 100)
    pixels = CONFIG.input[0]
    assert (pixels.name, pixels.data_type, pixels.dims, pixels.optional) == (
        "pixels",
        "TYPE_UINT8",
        (2, 3),
        True,
    )
    assert [(tensor.name, tensor.data_type) for tensor in CONFIG.output] == [
        ("logits", "TYPE_FP32"),
        ("score", "TYPE_FP32"),
    ]
    assert [(group.kind, group.count) for group in CONFIG.instance_group] == [
        ("KIND_CPU", 3),
        ("KIND_GPU", 1),
    ]
    batching = CONFIG.dynamic_batching
    assert batching.preferred_batch_size == (SERVICE.scheduler.max_batch,)
    slo_ms = SERVICE.classes[SERVICE.default_class].latency_slo_ms
    assert batching.default_queue_policy.default_timeout_microseconds == slo_ms * 1000
    assert CONFIG.parameters["poise_classes"].string_value == ",".join(SERVICE.classes)


def test_the_inputs_of_a_services_only_modality_may_not_be_left_out():
    wire = msgspec.structs.replace(WIRE, modalities={"image": WIRE.modalities["image"]})
    assert not any(tensor.optional for tensor in model_config(wire, SERVICE, ()).input)


def test_another_client_understands_every_field():
    told = json.loads(msgspec.json.encode(CONFIG))
    read = ParseDict(told, model_config_pb2.ModelConfig())
    assert read.input[0].data_type == model_config_pb2.TYPE_UINT8
    assert read.dynamic_batching.default_queue_policy.allow_timeout_override


def test_every_datatype_has_a_name_there():
    for name in ("BOOL", "FP16", "BF16", "BYTES", "UINT64"):
        assert model_config_pb2.DataType.Value(data_type(name))
