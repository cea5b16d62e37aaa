"""The dashboard for Grafana: its expressions are held against a real Prometheus that scrapes a real server."""

import json
from itertools import combinations
from pathlib import Path

import pytest
from tests.servers import DATATYPES, json_request, serving
from tests.telemetry.test_prometheus import scraping
from tests.tiny import TINY

DASHBOARD = Path(__file__).parents[2] / "packaging" / "grafana" / "poise.json"


def panels() -> list[dict]:
    found: list[dict] = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return found


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", ())]


def test_panels_have_a_place_and_a_number_of_their_own():
    assert len({panel["id"] for panel in panels()}) == len(panels())
    places = [panel["gridPos"] for panel in panels()]
    for one, two in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= two["x"]
            or two["x"] + two["w"] <= one["x"]
            or one["y"] + one["h"] <= two["y"]
            or two["y"] + two["h"] <= one["y"]
        )
        assert apart, (one, two)
    for panel in panels():
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(letters)) == len(letters)


@pytest.mark.slow
def test_every_expression_has_an_answer(tmp_path, arrays):
    service = TINY / "emulated.yaml"
    with (
        serving(service, "--adapter", "poise", "--history", str(tmp_path / "h")) as server,
        scraping(server.address, tmp_path) as prometheus,
    ):
        body = json_request(arrays, tuple(DATATYPES), 1)
        refused = json_request(arrays, tuple(DATATYPES), 1, parameters={"poise_deadline_ms": 0.001})

        def asked() -> bool:
            server.post(body)
            server.post(refused)
            server.request("GET", "/v2/models/none")
            answered = prometheus.value('sum(increase(poise_jobs_total{outcome="answered"}[10s]))')
            solved = prometheus.value("sum(increase(poise_solve_seconds_count[10s]))")
            return bool(answered) and solved is not None

        server.wait_until(asked)
        for expression in expressions():
            asked_for = expression.replace("$__rate_interval", "10s").replace("$job", "poise")
            found = prometheus.get("query", query=asked_for)
            assert found is not None, expression
            if "grpc" not in expression:  # nobody asked over gRPC
                assert found["result"], expression
                # where nothing happened of late a quantile is no number
                numbers = [sample["value"][1] != "NaN" for sample in found["result"]]
                assert any(numbers) or "quantile" in expression, expression
