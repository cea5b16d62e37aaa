"""Pages that are kept: how old they may be, and that a flood of requests writes few of them."""

import http.client
from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from tests.security.target import attacked, request

from poise.ingress.gate import Gates
from poise.ingress.guard import Guard
from poise.ingress.http_app import HttpApp
from poise.ingress.limits import Limits
from poise.ingress.pages import FRESH_AT_ONCE, FRESH_PER_S, kept_while, seldom_fresh
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


@given(st.lists(st.floats(0.0, 0.3), min_size=1, max_size=200))
def test_a_page_is_fresh_but_for_a_flood(steps_s):
    now_s = 0.0
    written: list[float] = []

    def page(_: HttpRequest) -> Reply:
        written.append(now_s)
        return Reply(200, (str(now_s).encode(),))

    handler = seldom_fresh(page, lambda: now_s)
    for step_s in steps_s:
        now_s += step_s
        (said,) = handler(ASKED).body
        assert now_s - float(bytes(said)) <= 1 / FRESH_PER_S + 1e-9
        if step_s >= 1 / FRESH_PER_S + 1e-9:
            assert float(bytes(said)) == now_s
    assert len(written) <= FRESH_AT_ONCE + now_s * FRESH_PER_S + 1e-6


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

    app = HttpApp(Gates({}), Guard(), Limits(), metrics)
    route = app.route(HttpRequest("GET", b"/metrics", {}), 0)
    assert isinstance(route, Route)
    for _ in range(500):
        assert cast(Reply, route.handler(ASKED)).body == (b"# metrics",)
    assert len(written) < 100
