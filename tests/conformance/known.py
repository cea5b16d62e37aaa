"""Where poise answers otherwise than Triton on purpose, and why. Anything else that differs fails the test."""

from __future__ import annotations

from typing import Any

from tests.conformance.comparison import ABSENT, TEXT, Known, Matcher
from tests.conformance.peers import MAX_BATCH, MODELS

import poise

HTTP = ("http: {}", "http.aio: {}")
GRPC = ("grpc: {}", "grpc.aio: {}")
ALL = HTTP + GRPC

TRITON_VERSION = "2.51.0"
TRITON_EXTENSIONS = [
    *("classification", "sequence", "model_repository", "model_repository(unload_dependents)"),
    *("schedule_policy", "model_configuration", "system_shared_memory", "cuda_shared_memory"),
    *("binary_tensor_data", "parameters", "statistics", "trace", "logging"),
]


def each(patterns: tuple[str, ...], *calls: str) -> tuple[str, ...]:
    """Return the names of some calls as said by several clients."""
    return tuple(pattern.format(call) for pattern in patterns for call in calls)


def bare(*calls: str) -> tuple[str, ...]:
    """Return the names of some calls in bare HTTP."""
    return tuple(f"bare http: {call}" for call in calls)


def bare_grpc(*calls: str) -> tuple[str, ...]:
    """Return the names of some calls in bare gRPC."""
    return tuple(f"bare grpc: {call}" for call in calls)


def _poise_parameters(value: Any) -> bool:
    """Whether these are what poise says of every answer: how it was answered."""
    names = {"poise_variant", "poise_modalities", "poise_accuracy", "poise_queue_us", "poise_compute_us"}
    return isinstance(value, dict) and value.keys() == names


def among(values: tuple[float, ...]) -> Matcher:
    """Return what fits each of some values."""
    return Matcher(f"one of {values}", lambda value: value in values)


POISE_PARAMETERS = Matcher("poise's five parameters", _poise_parameters)
EXTENSIONS = Matcher(
    "extensions that Triton has too",
    lambda value: (
        isinstance(value, list)
        and set(value) <= set(TRITON_EXTENSIONS)
        and {"binary_tensor_data", "schedule_policy", "parameters", "statistics"} <= set(value)
    ),
)

CONFIG = (
    each(ALL, "get_model_config *")
    + bare("GET /v2/models/sums/config", "GET /v2/models/sums/versions/1/config")
    + bare_grpc("ModelConfig 'sums' '1'")
)
CONFIG_HTTP = tuple(call for call in CONFIG if "http" in call)
CONFIG_GRPC = tuple(call for call in CONFIG if "grpc" in call)
VERSION_X = (
    "a version that is no number cannot be there; Triton calls it malformed over gRPC and not found over HTTP"
)


POISE_SETTINGS = Matcher(
    "poise's settings",
    lambda value: (
        isinstance(value, dict)
        and value.keys() == {"poise_classes", "poise_default_class", "poise_modalities", "poise_variants"}
    ),
)
DEFAULTS: dict[str, list[Any] | dict[str, Any]] = {
    "batch_input": [],
    "batch_output": [],
    "model_warmup": [],
    "cc_model_filenames": {},
    "metric_tags": {},
}

CONFIGURATION: list[Known] = [
    Known(CONFIG, "*backend", "python", "poise", "variants of one service may run on several platforms"),
    Known(CONFIG_HTTP, "*platform", "", "poise", "of the same"),
    Known(CONFIG_GRPC, "*platform", ABSENT, "poise", "of the same"),
    Known(
        CONFIG,
        "*ax*atch*ize",
        MAX_BATCH,
        100_000,
        "the most items that a request may have, which is what clients ask it for; a job may be larger than a batch",
    ),
    Known(CONFIG_HTTP, "*max_queue_size", 0, 100_000, "the queue is bounded"),
    Known(CONFIG_GRPC, "*ax*ueue*ize", ABSENT, 100_000, "the queue is bounded"),
    Known(
        CONFIG_HTTP,
        "*parameters.poise_*",
        ABSENT,
        Matcher("a string", lambda value: isinstance(value, dict) and list(value) == ["string_value"]),
        "classes, modalities and variants, which only poise has",
    ),
    Known(CONFIG_GRPC, "*parameters", ABSENT, POISE_SETTINGS, "of the same"),
    *(
        Known(CONFIG_HTTP, f"*{name}", nothing, ABSENT, "a setting that poise has no like of, at its default")
        for name, nothing in DEFAULTS.items()
    ),
    Known(CONFIG, "*efault*odel*ilename", "model.py", ABSENT, "variants have files of their own"),
    Known(
        CONFIG,
        "*optimization",
        Matcher(
            "settings of pinned memory", lambda value: isinstance(value, dict) and len(value) >= len("io")
        ),
        ABSENT,
        "of devices' memory, which poise does not leave to a configuration",
    ),
]

OWN: list[Known] = [
    Known(("*",), "*error", TEXT, TEXT, "each server has its own words"),
    Known(
        ("http: *", "http.aio: *", "grpc: *", "grpc.aio: *", "bare *"),
        "*parameters",
        ABSENT,
        POISE_PARAMETERS,
        "every answer says how it was answered; clients let unknown parameters be",
    ),
    Known(
        each(ALL, "get_server_metadata") + bare("GET /v2") + bare_grpc("ServerMetadata"),
        "*name",
        "triton",
        "poise",
        "its name",
    ),
    Known(
        each(ALL, "get_server_metadata") + bare("GET /v2") + bare_grpc("ServerMetadata"),
        "*version",
        TRITON_VERSION,
        poise.__version__,
        "its version",
    ),
    Known(
        each(ALL, "get_server_metadata") + bare("GET /v2") + bare_grpc("ServerMetadata"),
        "*extensions",
        TRITON_EXTENSIONS,
        EXTENSIONS,
        "poise has no sequences, no shared memory of a client's, no tracing or logging by remote control",
    ),
    Known(
        each(HTTP, "get_server_metadata") + bare("GET /v2"),
        "*models",
        ABSENT,
        list(MODELS),
        "the names of the services, which a person at a terminal wants to know first",
    ),
    Known(
        each(ALL, "get_model_metadata *")
        + bare("GET /v2/models/sums", "GET /v2/models/sums/versions/1")
        + bare_grpc("ModelMetadata 'sums' '1'"),
        "*platform",
        "python",
        "poise",
        "variants of one service may run on several platforms",
    ),
    Known(
        each(HTTP, "get_model_metadata *") + bare("GET /v2/models/sums", "GET /v2/models/sums/versions/1"),
        "*inputs.*.parameters",
        ABSENT,
        {"modality": "all"},
        "which inputs go together and may be left out together",
    ),
]

STATUSES: list[Known] = [
    Known(
        bare(
            *("with a number as id", "priority -1", "priority 'x'", "timeout -5", "timeout 'x'"),
            *("parameters in a list", "half an object", "a list", "a string", "an object"),
            *("something after it", "inputs null", "inputs {}"),
            *(f"an input without {field}" for field in ("name", "datatype", "shape")),
            *(
                f"shape {shape}"
                for shape in ("?1, 3?", "?2, 4?", "?-1, 4?", "?'x', 4?", "?1.0, 4?", f"?{2**64}, 4?")
            ),
            *("data ?1, 2, 3?", "data ?1, 2, 3, 4, 5?", "data ?'1', '2', '3', '4'?", "data 7", "data {}"),
            *("data ?1, 2, None, 4?", "data ?1, 2, True, 4?"),
            *("binary of a negative size", "header length too small", "body: gzip cut short"),
            *("types BOOL ?1, 0, 1?", "types BOOL ?'a', True, True?", "types UINT8 ?-1, 0, 0?"),
            *("types UINT8 ?1.0, 0, 0?", "types INT8 ?1.5, 0, 0?"),
            *(f"types INT64 ?{2**63}, 0, 0?", f"types UINT64 ?{2**64}, 0, 0?"),
            *("words ?1, 2, 3?", "words ?'a', 'b', None?"),
        ),
        "verdict",
        "500",
        "400",
        "a request that cannot be read is the client's fault: 500 would have it tried again",
    ),
    Known(
        bare("GET /v2/models/nobody/ready", "GET /v2/models/sums/versions/2/ready"),
        "verdict",
        "400",
        "404",
        "what is not there is not found; the clients ask for 200 alone",
    ),
    Known(
        bare("GET /v2/models/nobody/stats", "GET /v2/models/sums/versions/2/stats")
        + each(HTTP, "get_inference_statistics nobody ", "get_inference_statistics sums 2"),
        "verdict",
        "400",
        "404",
        "what is not there is not found, as in Triton's own metadata and configuration",
    ),
    Known(
        each(GRPC, "get_inference_statistics nobody ", "get_inference_statistics sums 2")
        + bare_grpc("ModelStatistics 'nobody' ''", "ModelStatistics 'sums' '2'"),
        "verdict",
        Matcher("INVALID_ARGUMENT", lambda value: value.endswith("INVALID_ARGUMENT")),
        Matcher("NOT_FOUND", lambda value: value.endswith("NOT_FOUND")),
        "what is not there is not found, as in Triton's own metadata and configuration",
    ),
    Known(
        bare_grpc(*(f"Model{what} 'sums' 'x'" for what in ("Metadata", "Config", "Statistics")), "version x"),
        "verdict",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        VERSION_X,
    ),
    Known(
        bare_grpc("Health/Check 'nobody'"),
        "verdict",
        "OK",
        "NOT_FOUND",
        "gRPC's health check is of the service that it names; Triton does not look at the name",
    ),
    Known(bare_grpc("ModelReady 'sums' 'x'"), "verdict", "INVALID_ARGUMENT", "OK", VERSION_X),
    Known(
        bare_grpc("shared memory"),
        "verdict",
        "NOT_FOUND",
        "INVALID_ARGUMENT",
        "poise offers no shared memory to clients, so there is no region to be found",
    ),
    Known(
        bare_grpc("no message"),
        "verdict",
        "INTERNAL",
        "INVALID_ARGUMENT",
        "a request that cannot be read is the client's fault",
    ),
    Known(
        bare_grpc("an unknown method"),
        "error",
        "",
        TEXT,
        "whose words it is: gRPC's own",
    ),
    Known(
        bare("shape ?4611686018427387904, 4?"),
        "verdict",
        "400",
        "413",
        "more items than the server can ever hold is too large, and said before the rest is looked at",
    ),
    Known(
        each(HTTP, "infer, too late"),
        "verdict",
        "503",
        "504",
        "a deadline that has passed is said to have passed: 503 would have the same request tried again",
    ),
    Known(
        each(GRPC, "infer, too late"),
        "verdict",
        "StatusCode.UNAVAILABLE",
        "StatusCode.DEADLINE_EXCEEDED",
        "a deadline that has passed is said to have passed: UNAVAILABLE would have the same request tried again",
    ),
    Known(
        bare("shared memory"),
        "verdict",
        "404",
        "400",
        "poise offers no shared memory to clients, so there is no region to be found",
    ),
    Known(
        bare("HEAD /v2/health/live"),
        "verdict",
        "405",
        "200",
        "HEAD is GET without a body (RFC 9110, 9.3.2), and load balancers probe with it",
    ),
    Known(
        bare(*(f"{method} {path}" for method, path in (("POST", "/v2"), ("POST", "/v2/health/live")))),
        "allow",
        ABSENT,
        "GET",
        "405 names the methods that there are (RFC 9110, 15.5.6)",
    ),
    Known(
        bare("POST /v2/models/sums", "POST /v2/models/sums/config"),
        "allow",
        ABSENT,
        "GET",
        "405 names the methods that there are (RFC 9110, 15.5.6)",
    ),
    Known(
        bare("GET /v2/models/sums/infer", "PUT /v2/models/sums/infer", "GET /v2/repository/index"),
        "allow",
        ABSENT,
        "POST",
        "405 names the methods that there are (RFC 9110, 15.5.6)",
    ),
    Known(
        bare("*"),
        "content-type",
        "text/plain",
        "application/json",
        "an error is JSON, and says so; Triton says so of some",
    ),
]

REPOSITORY: list[Known] = [
    Known(
        each(HTTP, "load an unknown model"),
        "verdict",
        "500",
        "404",
        "what is not there is not found",
    ),
    Known(
        each(GRPC, "load an unknown model"),
        "verdict",
        "StatusCode.INTERNAL",
        "StatusCode.NOT_FOUND",
        "what is not there is not found",
    ),
    Known(
        each(HTTP, "unload an unknown model"),
        "verdict",
        "answered",
        "404",
        "what is not there is not found: its name was mistyped",
    ),
    Known(
        each(GRPC, "unload an unknown model"),
        "verdict",
        "answered",
        "StatusCode.NOT_FOUND",
        "what is not there is not found: its name was mistyped",
    ),
    Known(
        bare("POST /v2/repository/index nonsense", "POST /v2/repository/models/sums/load nonsense"),
        "verdict",
        "500",
        "400",
        "a request that cannot be read is the client's fault",
    ),
    Known(
        bare("GET /v2/repository/models/sums/load "),
        "allow",
        ABSENT,
        "POST",
        "405 names the methods that there are (RFC 9110, 15.5.6)",
    ),
    Known(
        bare("POST /v2/repository/x/models/sums/load "),
        "verdict",
        "501",
        "404",
        "there is one repository and no route to another",
    ),
    Known(
        bare_grpc("repository index of another repository"),
        "verdict",
        "UNIMPLEMENTED",
        "INVALID_ARGUMENT",
        "there is one repository: the request names what cannot be",
    ),
    Known(
        each(HTTP, "get_inference_statistics of what is unloaded"),
        "verdict",
        "400",
        "404",
        "what is not there is not found, as in Triton's own metadata and configuration",
    ),
    Known(
        each(GRPC, "get_inference_statistics of what is unloaded"),
        "verdict",
        "StatusCode.INVALID_ARGUMENT",
        "StatusCode.NOT_FOUND",
        "what is not there is not found, as in Triton's own metadata and configuration",
    ),
]

LENIENT: list[Known] = [
    Known(
        bare("more items than a batch")
        + each(ALL, "infer, more items than a batch")
        + bare_grpc("more items than a batch"),
        "verdict",
        Matcher(
            "a refusal", lambda value: value in ("400", "INVALID_ARGUMENT", "StatusCode.INVALID_ARGUMENT")
        ),
        Matcher("an answer", lambda value: value in ("200", "OK", "answered")),
        "a job may be larger than a batch: it is answered in several",
    ),
    Known(
        bare("body: deflate without its header"),
        "verdict",
        "400",
        "200",
        "much software sends deflate so, and it cannot be mistaken",
    ),
    Known(
        bare("body: br"),
        "verdict",
        "501",
        "415",
        "a content coding that is not understood is 415 (RFC 9110, 15.5.16)",
    ),
    Known(
        bare("body: GZIP"),
        "verdict",
        "501",
        "200",
        "names of codings have no case (RFC 9110, 8.4.1)",
    ),
    Known(
        bare("types FP16 in JSON", "types FP16 into JSON"),
        "verdict",
        "400",
        "200",
        "numbers in JSON fit FP16 as well as any other type",
    ),
]

STRICT: list[Known] = [
    Known(
        bare("an output twice"),
        "verdict",
        "200",
        "400",
        "two wishes for one output may contradict each other",
    ),
    Known(
        bare_grpc("an output twice"),
        "verdict",
        "OK",
        "INVALID_ARGUMENT",
        "two wishes for one output may contradict each other",
    ),
    Known(
        bare_grpc("more raw contents than inputs"),
        "verdict",
        "OK",
        "INVALID_ARGUMENT",
        "what belongs to no input was meant for one",
    ),
    Known(
        bare_grpc("timeout -5 as int64_param"),
        "verdict",
        "OK",
        "INVALID_ARGUMENT",
        "a negative timeout is a mistake, as over HTTP, where Triton refuses it too",
    ),
    Known(
        bare("data nested in another way"),
        "verdict",
        "200",
        "400",
        "data that is nested must be nested as the shape says: the client may have mistaken its axes",
    ),
    Known(
        bare(f"types UINT8 ?{2**8}, 0, 0?", f"types INT8 ?{2**7}, 0, 0?", f"types INT32 ?{2**31}, 0, 0?"),
        "verdict",
        "200",
        "400",
        "a number that the type does not hold is refused; Triton keeps its lowest bits",
    ),
    Known(
        bare("types FP32 ?1e+39, 0, 0?", "NaN"),
        "verdict",
        "200",
        "400",
        "JSON has no infinity and no NaN (RFC 8259, 6), and a number that overflows is a mistake; binary takes all",
    ),
    Known(
        bare("classification"),
        "verdict",
        "200",
        "400",
        "the classification extension is not offered, and metadata does not list it",
    ),
    Known(
        bare_grpc("classification"),
        "verdict",
        "OK",
        "INVALID_ARGUMENT",
        "the classification extension is not offered, and metadata does not list it",
    ),
    Known(
        each(HTTP, "get_log_settings", "get_trace_settings", "get_system_shared_memory_status"),
        "verdict",
        "answered",
        "404",
        "logging, tracing and shared memory are not offered to clients, and metadata does not list them",
    ),
    Known(
        each(GRPC, "get_log_settings", "get_trace_settings", "get_system_shared_memory_status"),
        "verdict",
        "answered",
        "StatusCode.UNIMPLEMENTED",
        "logging, tracing and shared memory are not offered to clients, and metadata does not list them",
    ),
    Known(
        bare_grpc("TraceSetting", "LogSettings", "SystemSharedMemoryStatus", "CudaSharedMemoryStatus"),
        "verdict",
        "OK",
        "UNIMPLEMENTED",
        "logging, tracing and shared memory are not offered to clients, and metadata does not list them",
    ),
]

OTHERWISE: list[Known] = [
    Known(
        bare("GET /v2/health/live"),
        "body",
        None,
        {"live": True},
        "the protocol's text has this body; Triton sends none, and clients read none",
    ),
    Known(
        bare("GET /v2/health/ready", "GET /v2/models/sums/ready", "GET /v2/models/sums/versions/1/ready"),
        "body",
        None,
        Matcher("ready, with a name", lambda value: isinstance(value, dict) and value.get("ready") is True),
        "the protocol's text has this body; Triton sends none, and clients read none",
    ),
    Known(
        bare("GET /v2/health/*", "GET /v2/models/sums/*ready"),
        "content-type",
        ABSENT,
        "application/json",
        "of that body",
    ),
    Known(
        bare("binary_data_output and an output"),
        "body.outputs.1.data",
        [-9.0, -18.0, -27.0, -36.0],
        ABSENT,
        "binary_data_output is for every output that says nothing else, as the extension's text has it; "
        "Triton leaves it out of account where outputs are named",
    ),
    Known(
        bare("binary_data_output and an output"),
        "body.outputs.1.parameters",
        ABSENT,
        {"binary_data_size": 16},
        "of the same",
    ),
    Known(
        bare("binary_data_output and an output"),
        "binary",
        ABSENT,
        "000010c1000090c10000d8c1000010c2",
        "of the same",
    ),
    Known(
        bare("binary_data_output and an output"),
        "content-type",
        "application/json",
        "application/octet-stream",
        "of the same",
    ),
    Known(
        each(ALL, "infer difference and sum")
        + bare("outputs in another order")
        + bare_grpc("outputs in another order"),
        "*outputs.0.name",
        "sum",
        "difference",
        "outputs come in the order in which they were asked for; clients go by their names",
    ),
    Known(
        each(ALL, "infer difference and sum")
        + bare("outputs in another order")
        + bare_grpc("outputs in another order"),
        "*outputs.1.name",
        "difference",
        "sum",
        "outputs come in the order in which they were asked for; clients go by their names",
    ),
    *(
        Known(
            bare("outputs in another order"),
            f"body.outputs.{place}.data.*",
            among(ones),
            among(others),
            "outputs come in the order in which they were asked for; clients go by their names",
        )
        for place, ones, others in (
            (0, (11.0, 22.0, 33.0, 44.0), (-9.0, -18.0, -27.0, -36.0)),
            (1, (-9.0, -18.0, -27.0, -36.0), (11.0, 22.0, 33.0, 44.0)),
        )
    ),
]

OTHERWISE += [
    Known(
        bare(*(f"short answer: {accepted}" for accepted in ("gzip", "gzip, deflate"))),
        "content-encoding",
        "gzip",
        ABSENT,
        "answers under 1 KB are not compressed: they would hardly be shorter",
    ),
    Known(
        bare(
            "short answer: deflate", "short answer: deflate, gzip", "short answer: gzip;q=0.5, deflate;q=0.9"
        ),
        "content-encoding",
        "deflate",
        ABSENT,
        "answers under 1 KB are not compressed: they would hardly be shorter",
    ),
    Known(
        bare("answer: deflate, gzip", "answer: gzip;q=0.5, deflate;q=0.9"),
        "content-encoding",
        "deflate",
        "gzip",
        "both were offered, and they are the same but for their frame",
    ),
    Known(
        bare("answer: gzip;q=0.1, identity"),
        "content-encoding",
        ABSENT,
        "gzip",
        "it was offered; weights are not weighed",
    ),
]
SWAPPED_RAW = Matcher("base64", lambda value: isinstance(value, str) and len(value) % 4 == 0)
OTHERWISE += [
    Known(
        each(GRPC, "infer difference and sum") + bare_grpc("outputs in another order"),
        "*aw*utput*ontents.?",
        SWAPPED_RAW,
        SWAPPED_RAW,
        "of the same; that the values are the right ones is seen in the arrays by their names",
    ),
    Known(
        each(ALL, "statistics of moody"),
        "execution_count",
        1,
        ABSENT,
        "a batch that failed is no execution",
    ),
    Known(
        each(ALL, "statistics of moody"),
        "batch_stats 1.compute_*",
        1,
        ABSENT,
        "a batch that failed is no execution",
    ),
]

KNOWN = [*CONFIGURATION, *OWN, *STATUSES, *REPOSITORY, *LENIENT, *STRICT, *OTHERWISE]
