import json

import msgspec
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2

from poise.protocol.statistics import (
    BatchStatistics,
    Duration,
    InferStatistics,
    ModelStatistics,
    Statistics,
    duration_of,
)


def test_durations_are_in_nanoseconds():
    assert duration_of(3, 0.0025) == Duration(3, 2_500_000)


def test_another_client_understands_every_field():
    each = [Duration(n, 10 * n) for n in range(8)]
    model = ModelStatistics(
        name="tiny",
        last_inference=5,
        inference_count=6,
        execution_count=7,
        inference_stats=InferStatistics(*each),
        batch_stats=(BatchStatistics(4, *each[:3]),),
    )
    told = json.loads(msgspec.json.encode(Statistics((model,))))
    del told["model_stats"][0]["memory_usage"]
    read = ParseDict(told, service_pb2.ModelStatisticsResponse()).model_stats[0]
    assert (read.name, read.version, read.inference_count, read.execution_count) == ("tiny", "1", 6, 7)
    assert read.inference_stats.fail.ns == 10
    assert read.inference_stats.cache_miss.count == 7
    assert read.batch_stats[0].batch_size == 4
    assert read.batch_stats[0].compute_output.ns == 20
