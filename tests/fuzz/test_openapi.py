"""Requests that schemathesis makes from our own OpenAPI document, right and wrong ones, to a real server."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CheckFunction
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.security.target import WIRE, StubGate
from tests.servers import Server, serving, tiny

from poise.ingress.gate import Gates
from poise.ingress.guard import Guard
from poise.ingress.http_app import HttpApp
from poise.ingress.limits import Limits
from poise.protocol.openapi import document

__all__ = ["tiny"]

CHECKS: list[CheckFunction] = [content_type_conformance, response_schema_conformance, status_code_conformance]
FEW = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
MANY = settings(FEW, max_examples=1000, derandomize=False)


@pytest.fixture(scope="module")
def server(tiny) -> Iterator[Server]:
    with serving(tiny, "--no-grpc") as running:
        yield running


def operations() -> dict[str, APIOperation]:
    """Every operation of the document that a server without a repository has, but reloads: these take seconds."""
    app = HttpApp(Gates({"tiny": StubGate()}), Guard(), Limits(), bytes)
    described = document(app.routes, [WIRE], "1")
    results: list[Any] = list(schemathesis.openapi.from_dict(described).get_all_operations())
    found: list[APIOperation] = [result.ok() for result in results]
    return {operation.label: operation for operation in found}


OPERATIONS = operations()


def hold(operation: APIOperation, mode: GenerationMode, chosen: settings, url: str) -> None:
    """Call an operation in many ways; no answer is the server's fault, or other than its document says."""

    @chosen
    @given(case=operation.as_strategy(generation_mode=mode))
    def held(case: schemathesis.Case) -> None:
        response = case.call(base_url=url)
        assert response.status_code < 500 or response.status_code in (503, 504), response.text
        case.validate_response(response, checks=CHECKS)

    held()


@pytest.mark.parametrize("label", OPERATIONS)
def test_no_request_of_the_document_is_the_servers_fault(server, label):
    hold(OPERATIONS[label], GenerationMode.POSITIVE, FEW, server.url)


def test_no_request_that_the_document_forbids_is_the_servers_fault(server):
    hold(OPERATIONS["POST /v2/models/{model}/infer"], GenerationMode.NEGATIVE, FEW, server.url)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_of_many_is_the_servers_fault(server, mode):
    hold(OPERATIONS["POST /v2/models/{model}/infer"], mode, MANY, server.url)
