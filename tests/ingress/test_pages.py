"""Pages that are kept: how old they may be, and that a flood of requests writes few of them."""

import asyncio
import http.client
from collections.abc import Callable, Coroutine
from typing import Any, cast

from tests.security.target import attacked, request

from poise.ingress.gate import Gates
from poise.ingress.guard import Guard
from poise.ingress.http_app import HttpApp
from poise.ingress.limits import Limits
from poise.ingress.pages import WRITTEN_AT_ONCE, kept_while, seldom_written
from poise.ingress.routes import HttpRequest, Reply, Route
from poise.protocol import openapi

ASKED = HttpRequest("GET", b"/", {})


def test_a_page_is_written_anew_where_what_it_says_has_changed():
    written = []
    says = "this"

    def page(_: HttpRequest) -> Reply:
        written.append(says)
        return Reply(200, (says.encode(),))

    handler = kept_while(lambda: says, page)
    assert [handler(ASKED).body for _ in range(3)] == [(b"this",)] * 3
    says = "that"
    assert [handler(ASKED).body for _ in range(3)] == [(b"that",)] * 3
    assert written == ["this", "that"]


def test_a_page_is_never_older_than_its_request_and_seldom_written_in_a_flood():
    written = 0

    def page(_: HttpRequest) -> Reply:
        nonlocal written
        written += 1
        return Reply(200, (str(written).encode(),))

    async def ask(handler: Callable[[HttpRequest], Reply | Coroutine[Any, Any, Reply]]) -> bytes:
        reply = handler(ASKED)
        (said,) = (reply if isinstance(reply, Reply) else await reply).body
        return bytes(said)

    async def whole() -> None:
        handler = seldom_written(page)
        said = await asyncio.gather(*(ask(handler) for _ in range(500)))
        assert said[:WRITTEN_AT_ONCE] == [str(n + 1).encode() for n in range(WRITTEN_AT_ONCE)]
        assert set(said[WRITTEN_AT_ONCE:]) == {str(WRITTEN_AT_ONCE + 1).encode()}
        assert written == WRITTEN_AT_ONCE + 1
        assert await ask(handler) == str(WRITTEN_AT_ONCE + 2).encode()

    asyncio.run(whole())


def test_what_openapi_says_is_written_once_until_it_changes(monkeypatch):
    written = []
    real = openapi.document

    def document(*given: object) -> object:
        written.append("openapi")
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(openapi, "document", document)
    with attacked() as target:
        client = http.client.HTTPConnection(*target.address)
        pages = set()
        for _ in range(40):
            client.request("GET", openapi.PATH)
            pages.add(client.getresponse().read())
        client.close()
        assert (len(pages), written) == (1, ["openapi"])
        target.app.routes.add("GET", "/another", lambda _: Reply(200))
        assert b"/another" in target.ask(request(path=openapi.PATH))[2]


def test_a_flood_for_metrics_writes_few_pages():
    written = []

    def metrics() -> bytes:
        written.append(1)
        return b"# metrics"

    async def whole() -> None:
        app = HttpApp(Gates({}), Guard(), Limits(), metrics)
        route = app.route(HttpRequest("GET", b"/metrics", {}), 0)
        assert isinstance(route, Route)
        replies = [route.handler(ASKED) for _ in range(500)]
        waiting = [cast(Coroutine[Any, Any, Reply], each) for each in replies if not isinstance(each, Reply)]
        said = [each for each in replies if isinstance(each, Reply)] + await asyncio.gather(*waiting)
        assert {each.body for each in said} == {(b"# metrics",)}

    asyncio.run(whole())
    assert len(written) < 100
