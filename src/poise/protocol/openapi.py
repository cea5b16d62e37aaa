"""What the HTTP server offers, as an OpenAPI document: for programs that make clients of it, or that test servers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from poise.domain.datatypes import NUMPY_TYPE
from poise.protocol.wire import VERSION, ServiceWire

OPENAPI = "3.1.0"
PATH = "/openapi.json"

SUMMARIES: dict[tuple[str, str], str] = {
    ("GET", "/v2"): "What the server is, and its extensions",
    ("GET", "/v2/health/live"): "Whether it lives",
    ("GET", "/v2/health/ready"): "Whether it takes jobs",
    ("GET", "/v2/models/stats"): "The statistics of all models",
    ("GET", "/v2/models/{model}"): "A model's inputs and outputs",
    ("GET", "/v2/models/{model}/ready"): "Whether a model takes jobs",
    ("GET", "/v2/models/{model}/config"): "A model's configuration",
    ("GET", "/v2/models/{model}/stats"): "A model's statistics",
    ("POST", "/v2/models/{model}/infer"): "Have a job answered",
    ("POST", "/v2/models/{model}/labels"): "Tell the true labels of a job that was answered",
    ("POST", "/v2/repository/index"): "The models that there are, and their states",
    ("POST", "/v2/repository/models/{model}/load"): "Load a model, or load it anew",
    ("POST", "/v2/repository/models/{model}/unload"): "Take no more jobs for a model",
    ("POST", "/v2/poise/reload"): "Read all service files anew",
    ("GET", "/metrics"): "The metrics, for Prometheus",
    ("GET", PATH): "This document",
}
"""What each operation is for; a model's version, where a path has one, changes nothing."""

_VERSIONED = "/v2/models/{model}/versions/{version}"

_ERRORS = {
    "400": "The request does not follow the protocol, or not the service",
    "401": "No token, or none that is valid",
    "403": "The token, or the page that the request comes from, does not allow it",
    "404": "No such model, version or route",
    "408": "The request did not arrive in time",
    "409": "It cannot be done as things stand",
    "413": "More bytes, items, tensors or levels than are taken",
    "415": "Not offered",
    "429": "Too much waits already",
    "431": "The head of the request is too long",
    "500": "The model failed, or the server",
    "503": "Loading, draining, or no worker",
    "504": "The deadline has passed or cannot be met",
}


def document(
    routes: Iterable[tuple[str, Iterable[str]]], wires: Sequence[ServiceWire], version: str
) -> dict[str, Any]:
    """Return the document of the routes that there are, as patterns with their methods, and of the services."""
    paths: dict[str, dict[str, Any]] = {}
    for pattern, methods in routes:
        for method in methods:
            paths.setdefault(pattern, {})[method.lower()] = _operation(method, pattern, wires)
    return {
        "openapi": OPENAPI,
        "info": {
            "title": "poise",
            "version": version,
            "description": "The Open Inference Protocol, version 2",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(wires),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(method: str, pattern: str, wires: Sequence[ServiceWire]) -> dict[str, Any]:
    plain = pattern.replace(_VERSIONED, "/v2/models/{model}")
    operation: dict[str, Any] = {
        "summary": SUMMARIES.get((method, plain), plain),
        "responses": {
            "200": _answered(plain),
            **{
                code: {
                    "description": words,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                }
                for code, words in _ERRORS.items()
            },
        },
    }
    parameters = [_parameter(name, wires) for name in ("model", "version") if f"{{{name}}}" in pattern]
    if parameters:
        operation["parameters"] = parameters
    body = _body(plain)
    if method == "POST" and body is not None:
        operation["requestBody"] = body
    return operation


def _parameter(name: str, wires: Sequence[ServiceWire]) -> dict[str, Any]:
    values = [wire.name for wire in wires] if name == "model" else [VERSION]
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": values}}


def _answered(pattern: str) -> dict[str, Any]:
    if pattern == "/metrics":
        return {"description": "Metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}
    schema: dict[str, Any] = {}
    if pattern.endswith("/infer"):
        schema = {"$ref": "#/components/schemas/Answer"}
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if pattern.endswith("/infer"):
        content["application/octet-stream"] = {}
    return {"description": "Done", "content": content}


def _body(pattern: str) -> dict[str, Any] | None:
    if pattern.endswith("/infer"):
        return {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/Request"}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    if pattern.endswith("/labels"):
        schema: dict[str, Any] = {
            "type": "object",
            "required": ["id", "labels"],
            "properties": {"id": {"type": "string"}, "labels": {"type": "array"}},
        }
        return {"required": True, "content": {"application/json": {"schema": schema}}}
    if pattern == "/v2/repository/index":
        schema = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
        return {"content": {"application/json": {"schema": schema}}}
    return None


def _schemas(wires: Sequence[ServiceWire]) -> dict[str, Any]:
    inputs = sorted({name for wire in wires for name in wire.inputs})
    outputs = sorted({name for wire in wires for name in wire.outputs})
    classes = sorted({name for wire in wires for name in wire.classes})
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"enum": inputs},
            "datatype": {"enum": sorted(NUMPY_TYPE)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "parameters": _object(binary_data_size={"type": "integer", "minimum": 0}),
            "data": {"type": "array"},
        },
    }
    parameters = _object(
        timeout={"type": "integer", "minimum": 0, "description": "microseconds"},
        priority={"type": "integer", "minimum": 0},
        binary_data_output={"type": "boolean"},
        poise_class={"enum": classes},
        poise_deadline_ms={"type": "number", "exclusiveMinimum": 0},
        poise_accuracy_floor={"type": "number", "minimum": 0, "maximum": 1},
    )
    wanted = _object(name={"enum": outputs}, parameters=_object(binary_data={"type": "boolean"}))
    return {
        "Error": _object(error={"type": "string"}, reason={"type": "string"}) | {"required": ["error"]},
        "Request": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": "string"},
                "inputs": {"type": "array", "minItems": 1, "items": tensor},
                "outputs": {"type": "array", "items": wanted | {"required": ["name"]}},
                "parameters": parameters,
            },
        },
        "Answer": _object(
            id={"type": "string"},
            model_name={"type": "string"},
            model_version={"type": "string"},
            parameters={"type": "object"},
            outputs={"type": "array", "items": _object(name={"enum": outputs})},
        )
        | {"required": ["model_name", "outputs"]},
    }


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}
