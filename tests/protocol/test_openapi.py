import msgspec
from tests.security.target import WIRE, attacked, request

from poise.protocol.openapi import SUMMARIES, document


def test_every_route_is_described():
    with attacked() as target:
        code, _, body = target.ask(request(path="/openapi.json"))
        assert code == 200
        described = msgspec.json.decode(body)
        routes = {(pattern, method) for pattern, methods in target.app.routes for method in methods}
    assert routes == {
        (path, method.upper()) for path, operations in described["paths"].items() for method in operations
    }
    for path, operations in described["paths"].items():
        for operation in operations.values():
            assert operation["summary"] in SUMMARIES.values(), path


def test_what_a_service_takes_is_named():
    described = document([("/v2/models/{model}/infer", ["POST"])], [WIRE], "1")
    operation = described["paths"]["/v2/models/{model}/infer"]["post"]
    assert operation["parameters"][0]["schema"]["enum"] == ["tiny"]
    asked = described["components"]["schemas"]["Request"]["properties"]
    assert asked["inputs"]["items"]["properties"]["name"]["enum"] == sorted(WIRE.inputs)
    assert asked["parameters"]["properties"]["poise_class"]["enum"] == sorted(WIRE.classes)
