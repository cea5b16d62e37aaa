"""Every guard: what takes it away, and the test that then fails. SECURITY.md tells the same table in words.

A limit is taken away by being lifted; a check by being replaced with one that lets everything pass; a measure in the
code by the code as it would be without.
"""

import asyncio
import os
import re
import ssl
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import httptools
import msgspec
import numpy as np
import pytest
from tests.security import (
    target,
    test_access,
    test_framing,
    test_grpc,
    test_http_limits,
    test_operations,
    test_requests,
    test_tls,
)

from poise.errors import UnauthorizedError
from poise.files.service_folder import ServiceFolder
from poise.ingress import (
    grpc_methods,
    grpc_server,
    http_chunks,
    http_connection,
    http_head,
    http_infer,
    http_server,
    inflating,
    routes,
    tls,
)
from poise.ingress.guard import EVERYBODY, Guard, Identity
from poise.ingress.http_app import HttpApp
from poise.ingress.http_connection import HttpConnection
from poise.ingress.http_stream import Stream
from poise.ingress.routes import Reply, error_reply
from poise.protocol import codec, elements, requests
from poise.protocol.compression import Encoding, Inflater
from poise.serving import server
from poise.serving.feedback import Feedback

Patch = pytest.MonkeyPatch


class Held(msgspec.Struct, frozen=True):
    """A guard. ``test`` is called with ``given``, and what it asks for of pytest."""

    name: str
    remove: Callable[[Patch], None]
    test: Callable[..., None]
    given: dict[str, Any] = {}


def lift(**limits: Any) -> Callable[[Patch], None]:
    """Lift limits beyond what any test reaches."""

    def remove(patch: Patch) -> None:
        for name, value in limits.items():
            patch.setitem(target.lifted, name, value)

    return remove


def replace(where: Any, name: str, value: Any) -> Callable[[Patch], None]:
    """Put something else in the place of an attribute."""
    return lambda patch: patch.setattr(where, name, value)


def nothing(*_: Any, **__: Any) -> None:
    """What a check is that checks nothing."""


def compared_at_leisure(guard: Guard, authorization: str | None) -> Identity:
    """``Guard.identify`` with a comparison that ends at the first difference, and a search that ends at the token."""
    digest = sha256((authorization or "")[len("Bearer ") :].encode()).digest()
    for token in guard._tokens or ():
        if token.digest == digest:
            return token.identity
    raise UnauthorizedError("none")


def naive_head(data: memoryview, _: Any) -> http_head.Head | Reply:
    """``parse_head`` as httptools alone has it."""
    head = http_head.Head()
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(data)
    except httptools.HttpParserError:
        return target_refusal()
    head.method = parser.get_method().decode()
    head.keep_alive = parser.should_keep_alive()
    chunked = b"transfer-encoding" in head.headers
    head.length = None if chunked else int(head.headers.get(b"content-length", b"0"))
    return head


def target_refusal() -> Reply:
    return Reply(400, close=True)


def lenient_parser(patch: Patch) -> None:
    """Have httptools take what it calls dangerous."""

    def parser(protocol: Any) -> Any:
        made = httptools.HttpRequestParser(protocol)
        made.set_dangerous_leniencies(
            lenient_headers=True, lenient_chunked_length=True, lenient_transfer_encoding=True
        )
        return made

    lenient = SimpleNamespace(**vars(httptools) | {"HttpRequestParser": parser})
    patch.setattr(http_head, "httptools", lenient)


def refused_but_open(code: int, words: str) -> Reply:
    return error_reply(code, words)


def inflater_without_end(encoding: Encoding, data: bytes, _: int) -> Inflater:
    return Inflater(encoding, data, BIG)


def renewed_head(connection: HttpConnection) -> None:
    connection.deadline_s = connection._server.now_s() + connection._server.limits.head_s


def renewed_body(stream: Stream, _: int) -> None:
    stream.deadline_s = stream._server.now_s() + stream._server.limits.body_s


async def uncounted(served: http_server.HttpServer, listener: Any, context: ssl.SSLContext) -> None:
    """``accept_encrypted`` as asyncio has it: a handshake is nobody's connection."""
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: HttpConnection(served), sock=listener, ssl=context)
    try:
        await asyncio.Event().wait()
    finally:
        listening.close()


def any_items(name: str, datatype: str, shape: Any, before: Any, wire: Any) -> Any:
    return requests.check_input(name, datatype, shape, before, msgspec.structs.replace(wire, max_items=10**9))


def asked_deadline(parameters: Any, slo_class: Any) -> float:
    return float(parameters.timeout / 1e6 if parameters.timeout else slo_class.latency_slo_s)


def asked_floor(parameters: Any, slo_class: Any) -> float:
    return float(parameters.poise_accuracy_floor or slo_class.accuracy_floor)


def path_as_written(folder: ServiceFolder, relative: str, *_: Any, **__: Any) -> Path:
    return folder.root / relative


def no_links_followed(patch: Patch) -> None:
    patch.setattr(
        "poise.files.service_folder.Path.resolve", lambda path: Path(os.path.normpath(path.absolute()))
    )


def pickles_taken(patch: Patch) -> None:
    load = np.load
    patch.setattr(np, "load", lambda file, **_: load(file, allow_pickle=True))


def told_all(patch: Patch) -> None:
    """Tell the client what was raised."""
    import sys

    def tell(code: int, words: str, *more: Any, **options: Any) -> Reply:
        return error_reply(code, repr(sys.exc_info()[1]) if code == 500 else words, *more, **options)

    patch.setattr(http_connection, "error_reply", tell)


def unbounded_lines(patch: Patch) -> None:
    for name in ("LINE_BYTES", "TRAILER_BYTES"):
        patch.setattr(http_chunks, name, BIG)


def any_size(patch: Patch) -> None:
    patch.setattr(codec, "check_size", nothing)
    patch.setattr(elements, "check_size", nothing)


def not_sealed(patch: Patch) -> None:
    import fcntl

    patch.setattr("poise.serving.arena.fcntl", SimpleNamespace(**vars(fcntl) | {"fcntl": nothing}))


def no_door(door: Any, details: Any) -> Any:
    """``_Door.service`` that asks nobody who he is, as if the token were each method's own business."""
    door._guard = Guard()
    return FOUND(door, details)


def door_within(door: Any, details: Any) -> Any:
    """``_Door.service`` as it is where only this machine reaches it."""
    door._outside = False
    return FOUND(door, details)


def labels_of_anybody(patch: Patch) -> None:
    """Keep answers, and find them, by their id alone."""
    expect, label = Feedback.expect, Feedback.label
    patch.setattr(
        Feedback, "expect", lambda kept, gate, pending, name, _: expect(kept, gate, pending, name, "")
    )
    patch.setattr(Feedback, "label", lambda kept, gate, name, _, labels: label(kept, gate, name, "", labels))


def not_required(patch: Patch) -> None:
    """Look at a client's certificate only where it shows one."""
    patch.setattr(tls, "ssl", SimpleNamespace(**vars(ssl) | {"CERT_REQUIRED": ssl.CERT_OPTIONAL}))


def not_required_by_grpc(patch: Patch) -> None:
    def credentials(first: Any, renewed: Any, **_: Any) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(first, renewed, require_client_authentication=False)

    patch.setattr(
        tls, "grpc", SimpleNamespace(**vars(grpc) | {"dynamic_ssl_server_credentials": credentials})
    )


def any_version(patch: Patch) -> None:
    versions = SimpleNamespace(TLSv1_2=ssl.TLSVersion.MINIMUM_SUPPORTED)
    patch.setattr(tls, "ssl", SimpleNamespace(**vars(ssl) | {"TLSVersion": versions}))


FOUND = grpc_server._Door.service
BIG = 2**31 - 1

GUARDS = (
    # who may ask
    Held(
        "token",
        replace(Guard, "identify", lambda *_: EVERYBODY),
        test_access.test_every_route_alias_and_method_needs_a_token,
    ),
    Held(
        "constant time",
        replace(Guard, "identify", compared_at_leisure),
        test_access.test_every_token_is_compared_whole_in_constant_time,
    ),
    Held(
        "origin",
        replace(Guard, "check_origin", nothing),
        test_access.test_a_web_page_of_others_changes_nothing,
        {"origin": "https://evil.example"},
    ),
    Held(
        "class of a token",
        replace(http_infer, "check_class", nothing),
        test_access.test_a_token_of_one_class_does_not_open_another,
    ),
    Held(
        "admin",
        lambda patch: patch.setattr("poise.ingress.http_app.check_admin", nothing),
        test_access.test_only_who_may_changes_the_servers_state,
    ),
    Held(
        "state from outside",
        replace(HttpApp, "_admins_kept_out", False),
        test_access.test_without_tokens_nobody_changes_the_servers_state_from_outside,
    ),
    Held(
        "labels",
        labels_of_anybody,
        test_access.test_only_who_sent_a_request_labels_it,
    ),
    Held(
        "loopback",
        replace(server, "is_loopback", lambda _: True),
        test_access.test_the_server_listens_on_this_machine_only_unless_told_otherwise,
    ),
    Held(
        "gRPC token",
        replace(grpc_server._Door, "service", no_door),
        test_grpc.test_every_method_needs_a_token,
    ),
    Held(
        "gRPC origin",
        replace(Guard, "check_origin", nothing),
        test_grpc.test_a_web_page_of_others_changes_nothing,
    ),
    Held(
        "gRPC class of a token",
        replace(grpc_methods, "check_class", nothing),
        test_grpc.test_a_token_of_one_class_does_not_open_another,
    ),
    Held(
        "gRPC state from outside",
        replace(grpc_server._Door, "service", door_within),
        test_grpc.test_without_tokens_nobody_changes_the_servers_state_from_outside,
    ),
    # who is on the network between
    Held(
        "client certificate",
        not_required,
        test_tls.test_who_has_to_show_a_certificate_is_not_answered_without,
    ),
    Held(
        "gRPC client certificate",
        not_required_by_grpc,
        test_tls.test_over_grpc_who_has_to_show_a_certificate_is_not_answered_without,
    ),
    Held("TLS 1.2", any_version, test_tls.test_nothing_older_than_tls_1_2_is_spoken),
    # where a request ends
    Held(
        "strict parser",
        lenient_parser,
        test_framing.test_a_request_whose_end_is_in_doubt_is_refused_and_nothing_after_it_read,
        {"head": test_framing.post("Content-Length: 0", "Transfer-Encoding: chunked")},
    ),
    Held(
        "chunked alone",
        replace(http_head, "parse_head", naive_head),
        test_framing.test_a_request_whose_end_is_in_doubt_is_refused_and_nothing_after_it_read,
        {"head": test_framing.post("Transfer-Encoding: gzip, chunked")},
    ),
    Held(
        "HTTP/1 alone",
        replace(http_head, "parse_head", naive_head),
        test_framing.test_another_version_is_refused,
        {"version": "HTTP/2.0"},
    ),
    Held(
        "headers once",
        replace(http_head, "ONCE", frozenset()),
        test_access.test_the_first_of_two_tokens_does_not_open_what_the_second_closes,
    ),
    Held(
        "closed after doubt",
        replace(http_head, "_refused", refused_but_open),
        test_framing.test_a_request_whose_end_is_in_doubt_is_refused_and_nothing_after_it_read,
        {"head": test_framing.post("Transfer-Encoding: gzip, chunked")},
    ),
    Held(
        "sizes of chunks",
        replace(http_chunks, "_size", lambda line: int(line, 16)),
        test_framing.test_chunks_whose_end_is_in_doubt_are_refused_and_nothing_after_them_read,
        {"body": b"0x5\r\nhello\r\n0\r\n\r\n"},
    ),
    # bytes
    Held(
        "body", lift(body_bytes=BIG), test_http_limits.test_a_body_over_the_cap_is_refused_by_its_length_alone
    ),
    Held(
        "body in chunks", lift(body_bytes=BIG), test_http_limits.test_a_body_in_chunks_over_the_cap_is_refused
    ),
    Held(
        "inflated body",
        replace(inflating, "Inflater", inflater_without_end),
        test_http_limits.test_a_body_over_the_cap_when_inflated_is_refused,
    ),
    Held("all bodies", lift(bodies_bytes=BIG), test_http_limits.test_all_bodies_together_are_bounded),
    Held("headers", lift(headers=BIG), test_http_limits.test_more_headers_than_allowed_are_refused),
    Held("head", lift(head_bytes=BIG), test_http_limits.test_a_head_that_does_not_end_is_refused),
    Held(
        "between chunks",
        unbounded_lines,
        test_http_limits.test_trailers_and_extensions_are_bounded,
    ),
    Held(
        "what waits",
        replace(Stream, "_flow", nothing),
        test_http_limits.test_who_waits_for_a_reply_cannot_have_the_server_hold_more_and_more,
    ),
    Held(
        "who does not read",
        replace(Stream, "_flow", nothing),
        test_http_limits.test_who_does_not_read_is_not_read_from,
    ),
    Held("gRPC message", lift(body_bytes=2**30), test_grpc.test_a_message_over_the_cap_is_refused),
    Held(
        "gRPC inflated message",
        lift(body_bytes=2**30),
        test_grpc.test_a_message_over_the_cap_when_inflated_is_refused,
    ),
    Held("gRPC metadata", lift(head_bytes=2**20), test_grpc.test_metadata_over_the_cap_is_refused),
    # time and connections
    Held(
        "time of a head",
        replace(HttpConnection, "_await_rest_of_head", renewed_head),
        test_http_limits.test_a_head_a_byte_at_a_time_has_its_time_once,
    ),
    Held("time to begin", lift(head_s=1000.0), test_http_limits.test_who_connects_and_says_nothing_is_let_go),
    Held("time between requests", lift(idle_s=1000.0), test_http_limits.test_who_is_idle_is_let_go),
    Held(
        "time of a body",
        lift(body_s=1000.0),
        test_http_limits.test_a_body_that_does_not_come_is_not_waited_for,
    ),
    Held(
        "pace of a body",
        replace(Stream, "_came", renewed_body),
        test_http_limits.test_a_body_that_comes_by_drops_is_not,
    ),
    Held("time to read a reply", lift(take_s=1000.0), test_http_limits.test_who_does_not_read_is_let_go),
    Held("connections", lift(connections=BIG), test_http_limits.test_connections_are_bounded),
    Held(
        "room for who asks",
        replace(HttpConnection, "idle", property(lambda _: False)),
        test_http_limits.test_who_asks_nothing_makes_room,
    ),
    Held(
        "turns",
        replace(http_connection, "STEPS_AT_ONCE", BIG),
        test_http_limits.test_many_requests_at_once_have_several_turns,
    ),
    Held(
        "long turns",
        replace(http_connection, "TURN_S", 1e9),
        test_http_limits.test_dear_requests_at_once_have_a_turn_each,
    ),
    Held(
        "length of a path",
        replace(routes, "LONGEST_PATH_BYTES", BIG),
        test_http_limits.test_a_path_that_is_too_long_is_not_taken_apart,
        {"path": "/v2/models/" + "%41" * 1000},
    ),
    Held(
        "handshakes",
        replace(http_server, "accept_encrypted", uncounted),
        test_tls.test_handshakes_are_connections_too,
    ),
    Held(
        "refused handshakes",
        replace(tls, "DROPPED_BYTES", BIG),
        test_tls.test_what_follows_a_refusal_is_bounded,
    ),
    Held("gRPC handshakes", lift(head_s=1000.0), test_grpc.test_who_connects_and_says_nothing_is_let_go),
    # what is in a request
    Held(
        "depth of JSON",
        replace(codec, "check_structure", nothing),
        test_requests.test_json_is_not_deeper_than_allowed,
        {"opening": b"[", "closing": b"]"},
    ),
    Held(
        "tensors",
        replace(codec, "check_count", nothing),
        test_requests.test_more_tensors_than_allowed_are_refused,
    ),
    Held(
        "elements",
        replace(codec, "check_input", any_items),
        test_requests.test_no_more_elements_than_the_service_takes,
    ),
    Held(
        "shapes",
        replace(requests, "_check_shape", nothing),
        test_requests.test_shapes_that_overflow_or_are_none_are_refused,
        {"shape": [1, 2, 2], "binary": False},
    ),
    Held(
        "binary sizes",
        any_size,
        test_requests.test_binary_sizes_that_are_not_the_shapes_are_refused,
        {"size": 15},
    ),
    Held(
        "length of the JSON",
        replace(http_infer, "_number", lambda value, _: int(value)),
        test_requests.test_header_lengths_that_are_none_are_refused,
        {"length": "\xb2"},
    ),
    Held(
        "highest floor",
        replace(requests, "_floor", asked_floor),
        test_requests.test_a_floor_above_the_classs_highest_is_refused,
    ),
    Held(
        "deadline of the class",
        replace(requests, "_deadline_s", asked_deadline),
        test_requests.test_a_longer_deadline_than_the_classs_is_cut,
    ),
    Held(
        "priority",
        replace(requests, "_priority", lambda parameters: parameters.priority or 0),
        test_requests.test_a_priority_is_one_within_the_class,
    ),
    Held("gRPC tensors", lift(tensors=BIG), test_grpc.test_more_tensors_than_allowed_are_refused),
    Held(
        "gRPC shapes",
        replace(requests, "_check_shape", nothing),
        test_grpc.test_shapes_that_overflow_or_are_none_are_refused,
        {"shape": [1, 2, 2]},
    ),
    # files, memory, errors
    Held(
        "names",
        lambda patch: patch.setattr("poise.domain.service.SERVICE_NAME", re.compile("")),
        test_operations.test_names_are_of_a_strict_pattern,
        {"name": "a/b"},
    ),
    Held(
        "paths",
        replace(ServiceFolder, "resolve", path_as_written),
        test_operations.test_no_path_leaves_the_services_folder,
        {"path": "../outside"},
    ),
    Held(
        "real paths",
        no_links_followed,
        test_operations.test_no_path_leaves_the_services_folder,
        {"path": "link"},
    ),
    Held(
        "arrays without pickles", pickles_taken, test_operations.test_arrays_with_pickles_in_them_are_refused
    ),
    Held("errors without internals", told_all, test_operations.test_an_error_of_ours_says_nothing_of_it),
    Held(
        "arena's mode",
        lambda patch: patch.setattr(os, "fchmod", nothing),
        test_operations.test_the_arena_is_nobody_elses,
    ),
    Held("arena's seals", not_sealed, test_operations.test_the_arena_is_nobody_elses),
)
