"""Who may ask for what: tokens, origins, classes, addresses. Named in ``guards.py``."""

import hmac
import http.client
import itertools
import json
from typing import Any, cast
from unittest import mock

import pytest
from tests.security.target import INFER, attacked, infer, request, wave
from tests.tiny import TINY

from poise.errors import ConfigError, RequestError
from poise.files import open_service
from poise.ingress.feedback import add_feedback_route
from poise.ingress.guard import Guard, Identity, Token
from poise.ingress.http_app import HttpApp
from poise.ingress.repository import add_reload_route, add_repository_routes
from poise.ingress.routes import Reply
from poise.serving.feedback import Feedback, Scorer
from poise.serving.server import ServerSettings, bind

SECRET = "a secret of some length"
OTHER = "another secret of some length"
LABELS = "/v2/models/tiny/labels"
METHODS = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "QUERY",
)


def guarded() -> Guard:
    bound = Identity("bound", frozenset({"bulk"}), admin=False)
    return Guard((Token.of(SECRET, Identity("whole")), Token.of(OTHER, bound)))


def bearer(secret: str) -> str:
    return f"Authorization: Bearer {secret}"


def every_path(patterns: list[str]) -> list[str]:
    """Each route and its aliases, and what is no route."""
    paths = [
        pattern.replace("{model}", "tiny").replace("{version}", "1").replace("{", "").replace("}", "")
        for pattern in patterns
    ]
    aliases = [f"{path}/" for path in paths] + [f"{path}?x=1" for path in paths]
    encoded = [path.replace("v2", "%762").replace("metrics", "m%65trics") for path in paths]
    return [*paths, *aliases, *encoded, "/", "*", "//v2", "/v2/../metrics", "/nowhere", "http://x/v2"]


def add_all_routes(app: HttpApp) -> None:
    """Add the routes that are there only where they are asked for; nothing behind them is reached."""
    nothing: Any = None
    add_reload_route(app, nothing)
    add_repository_routes(app, nothing)
    add_feedback_route(app, nothing)


def test_every_route_alias_and_method_needs_a_token():
    with attacked(guard=guarded()) as target:
        target.do(lambda: add_all_routes(target.app))
        patterns = [pattern for pattern, _ in target.app.routes]
        assert len(patterns) > 20
        client = target.connect()
        for path, method in itertools.product(every_path(patterns), METHODS):
            client.send(request(method, path))
            code, headers, body = client.reply(head_only=method == "HEAD")
            if code == 400 and (method == "CONNECT" or not path.startswith("/")):
                client = target.connect()  # no HTTP at all
                continue
            assert code == 401, (method, path)
            assert method == "HEAD" or b"token" in body
            if "connection" in headers:
                client = target.connect()
        assert target.gate.requests == []


@pytest.mark.parametrize(
    "header",
    [
        "Authorization: Bearer",
        "Authorization: Bearer ",
        f"Authorization: Bearer {SECRET[:-1]}",
        f"Authorization: Bearer {SECRET}x",
        f"Authorization: Bearer {SECRET} {SECRET}",
        f"Authorization: Basic {SECRET}",
        f"Authorization: {SECRET}",
        f"X-Authorization: Bearer {SECRET}",
        f"Cookie: authorization=Bearer {SECRET}",
        "Authorization: Bearer \xff\xfe",
    ],
)
def test_what_is_no_token_is_none(header):
    with attacked(guard=guarded()) as target:
        assert target.ask(request(headers=[header]))[0] == 401
        assert target.ask(request(headers=[bearer(SECRET)]))[0] == 200


def test_a_token_is_not_taken_from_the_query():
    with attacked(guard=guarded()) as target:
        assert (
            target.ask(request(path=f"/v2?token={SECRET}&authorization=Bearer%20{SECRET}".replace(" ", "+")))[
                0
            ]
            == 401
        )


def test_the_first_of_two_tokens_does_not_open_what_the_second_closes():
    with attacked(guard=guarded()) as target:
        assert target.ask(request(headers=[bearer(SECRET), bearer(SECRET)]))[0] == 400


def test_a_body_is_not_waited_for_without_a_token():
    with attacked(guard=guarded()) as target:
        head = request("POST", INFER, headers=["Content-Length: 1000"])
        assert target.ask(head)[0] == 401


def test_every_token_is_compared_whole_in_constant_time():
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    guard = guarded()
    with mock.patch("poise.ingress.guard.hmac") as constant_time:
        constant_time.compare_digest = compare
        for secret in (SECRET, OTHER, "", "x" * 1000):
            compared.clear()
            try:
                guard.identify(f"Bearer {secret}")
            except RequestError:
                assert secret not in (SECRET, OTHER)
            assert compared == [(32, 32)] * 2, secret


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example:8000",
        "http://evil.example#localhost",
        "http://evil.example/127.0.0.1",
        "null",
        "file://",
        "",
        "http://[::1",
        "\xff",
    ],
)
def test_a_web_page_of_others_changes_nothing(origin):
    with attacked() as target:
        code, _, body = target.ask(infer(wave(), f"Origin: {origin}"))
        assert code == 403, body
        assert json.loads(body)["error"] == (
            f"got a request of a web page from origin {origin!r}, expected one from this machine, or from an origin "
            "that the server allows (--origin)"
        )
        assert target.gate.requests == []
        assert target.ask(infer(wave(), "Origin: http://localhost:3000"))[0] == 200


def test_every_route_that_changes_something_asks_for_the_origin():
    with attacked() as target:
        target.do(lambda: add_all_routes(target.app))
        for pattern, methods in target.app.routes:
            for method in {method for method, route in methods.items() if route.changes_state}:
                path = every_path([pattern])[0]
                code, _, _ = target.ask(request(method, path, b"{}", ["Origin: https://evil.example"]))
                assert code == 403, (method, path)


def test_a_token_of_one_class_does_not_open_another():
    with attacked(guard=guarded()) as target:
        asked = wave(parameters={"poise_class": "interactive"})
        assert target.ask(infer(asked, bearer(OTHER)))[0] == 403
        assert target.ask(infer(wave(), bearer(OTHER)))[0] == 403, "the default class is none of its own"
        assert target.gate.requests == []
        assert target.ask(infer(wave(parameters={"poise_class": "bulk"}), bearer(OTHER)))[0] == 200
        assert target.ask(infer(asked, bearer(SECRET)))[0] == 200


def test_only_who_may_changes_the_servers_state():
    with attacked(guard=guarded()) as target:
        target.app.routes.add("POST", "/change", lambda _: Reply(200), admin=True)
        assert target.ask(request("POST", "/change", b"", [bearer(OTHER)]))[0] == 403
        assert target.ask(request("POST", "/change", b"", [bearer(SECRET)]))[0] == 200


def test_without_tokens_nobody_changes_the_servers_state_from_outside():
    with attacked() as target:
        target.do(lambda: add_all_routes(target.app))
        target.app.routes.add("POST", "/change", lambda _: Reply(200), admin=True)
        assert target.ask(request("POST", "/change", b""))[0] == 200
        target.app.outside = True
        admins = {pattern for pattern, methods in target.app.routes if any(r.admin for r in methods.values())}
        assert len(admins) > 4
        for path in every_path(sorted(admins)):
            if path.startswith("/"):
                assert target.ask(request("POST", path, b""))[0] == 404, path
        assert target.ask(infer(wave()))[0] == 200
    with attacked(guard=guarded()) as target:
        target.app.outside = True
        target.app.routes.add("POST", "/change", lambda _: Reply(200), admin=True)
        assert target.ask(request("POST", "/change", b"", [bearer(SECRET)]))[0] == 200


def test_only_who_sent_a_request_labels_it():
    feedback, opened = Feedback(), open_service(TINY)
    label = json.dumps({"id": "a", "labels": [0]}).encode()
    with attacked(guard=guarded()) as target:
        feedback.add(cast(Any, target.gate), Scorer(opened, opened.load_profile()))
        target.do(lambda: add_feedback_route(target.app, feedback))
        asked = wave(id="a", parameters={"poise_class": "bulk"})
        assert target.ask(infer(asked, bearer(SECRET)))[0] == 200
        code, _, body = target.ask(request("POST", LABELS, label, [bearer(OTHER)]))
        assert code == 404, body
        assert json.loads(body)["error"] == "nothing is kept of a request 'a' of yours"
        assert target.ask(request("POST", LABELS, label, [bearer(SECRET)]))[0] == 200


def test_the_server_listens_on_this_machine_only_unless_told_otherwise():
    assert ServerSettings().host == "127.0.0.1"
    for host in ("0.0.0.0", "::", ""):
        with pytest.raises(ConfigError):
            bind(host, 0, guarded=False).close()
    with bind("127.0.0.1", 0, guarded=False) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_head_request_tells_no_more_than_a_get():
    with attacked(guard=guarded()) as target:
        connection = http.client.HTTPConnection(*target.address, timeout=20)
        connection.request("HEAD", "/metrics")
        reply = connection.getresponse()
        assert (reply.status, reply.read()) == (401, b"")
        connection.close()
