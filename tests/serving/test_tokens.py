"""Who may ask: tokens from files, for both protocols, their classes, and other addresses than loopback."""

import contextlib
import hashlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton_grpc
from tests.servers import DATATYPES, Server, copy_tiny, json_request, serving
from tests.serving.test_adapted_server import emulated_service
from tests.serving.test_reload import STATIC, reload
from tests.serving.test_server import refused_start

from poise.errors import ConfigError
from poise.ingress.guard import Identity
from poise.ingress.tokens import read_secret, read_token_file
from poise.protocol import inference_pb2 as pb

ALICE = "a" * 32
BOB = "b" * 32
ADMIN = "c" * 32


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_token_file_has_one_token_a_line(tmp_path):
    file = written(tmp_path / "tokens", f"# who may ask\n\n{ALICE}\n  bob : {BOB}  \n")
    assert [token.identity for token in read_token_file(file)] == [Identity("token 3"), Identity("bob")]
    assert [token.digest for token in read_token_file(file)] == [
        hashlib.sha256(secret.encode()).digest() for secret in (ALICE, BOB)
    ]
    assert read_secret(written(tmp_path / "one", f"{ALICE}\n")) == ALICE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got no token, expected one a line"),
        ("# nobody\n", "got no token"),
        ("short\n", r"tokens:1: got a token of 5 characters, expected at least 16"),
        (f"{ALICE}\nbob: {BOB}\nbob: {ALICE}\n", r"tokens:3: got name 'bob' twice"),
        (f"{ALICE} {BOB}\n", r"tokens:1: got a token with blanks"),
        ("ä" * 32, "got letters beyond ASCII"),
    ],
)
def test_a_token_file_that_will_not_do(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        read_token_file(written(tmp_path / "tokens", text))


def test_a_token_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_token_file(tmp_path / "none")


def test_a_token_file_that_all_may_read_is_warned_of(tmp_path, caplog):
    file = written(tmp_path / "tokens", ALICE)
    read_token_file(file)
    assert not caplog.records
    file.chmod(0o644)
    read_token_file(file)
    assert "every user of this machine may read the tokens" in caplog.text


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    service = emulated_service(folder / "tiny", STATIC)
    written(folder / "alice", ALICE)
    digest = hashlib.sha256(BOB.encode()).hexdigest()
    config = written(
        folder / "server.yaml",
        "format: 1\nrepository: true\ntokens:\n"
        "- {name: alice, file: alice, classes: [interactive]}\n"
        f"- {{name: bob, sha256: {digest}}}\n"
        f"- {{name: admin, sha256: {hashlib.sha256(ADMIN.encode()).hexdigest()}, admin: true}}\n",
    )
    with serving(service, "--config", str(config)) as server:
        yield server


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_reload_says_what_is_new_of_the_server(tmp_path):
    service = emulated_service(tmp_path / "tiny", STATIC)
    bob, admin = (hashlib.sha256(secret.encode()).hexdigest() for secret in (BOB, ADMIN))
    tokens = f"format: 1\ntokens:\n- {{name: admin, sha256: {admin}, admin: true}}\n"
    more = f"- {{name: bob, sha256: {bob}, classes: [gone]}}\n"
    config = written(tmp_path / "server.yaml", tokens)

    def reloaded(text: str) -> str:
        config.write_text(text)
        done = reload(server, "--token-file", str(tmp_path / "admin"))
        assert done.returncode == 0, done.stderr
        return done.stdout

    written(tmp_path / "admin", ADMIN)
    with serving(service, "--config", str(config)) as server:
        assert "the files are as they were" in reloaded(tokens)
        said = reloaded(tokens + more)
        assert "the server: tokens\n" in said
        assert "reloaded (" in said
        assert "reloaded; changed: the server: tokens\n" in server.log()
        assert "token bob may send jobs of class gone, which no service here has" in server.log()
        said = reloaded(tokens + more + "grace_s: 3\n")
        assert "from the next start: grace_s\n" in said
        assert "the files are as they were" not in said
        assert "the server: tokens\n" in reloaded("format: 1\ntokens: null\n")
        assert server.request("GET", "/v2")[0] == 200


def test_a_reload_does_not_open_a_server_to_other_machines(tmp_path):
    service = emulated_service(tmp_path / "tiny", STATIC)
    digest = hashlib.sha256(ADMIN.encode()).hexdigest()
    config = written(
        tmp_path / "server.yaml",
        f"format: 1\ntokens: [{{name: admin, sha256: {digest}, admin: true}}]\n",
    )
    with serving(service, "--config", str(config), "--host", "0.0.0.0") as server:
        config.write_text("format: 1\n")
        status, _, answer = server.request("POST", "/v2/poise/reload", b"", **bearer(ADMIN))
        assert status == 409
        assert "tokens: got none any more" in json.loads(answer)["error"]
        assert server.request("GET", "/v2")[0] == 401


@pytest.mark.parametrize("path", ["/", "/v2", "/v2/health/live", "/metrics", "/v2/models/tiny", "/nix"])
@pytest.mark.parametrize("headers", [{}, bearer("d" * 32), {"Authorization": ALICE}])
def test_no_route_answers_without_a_token(guarded, path, headers):
    for method in ("GET", "POST", "PATCH"):
        assert guarded.request(method, path, b"", **headers)[0] == 401


def test_tokens_let_in_over_both_protocols(guarded):
    assert guarded.request("GET", "/v2/health/ready", b"", **bearer(BOB))[0] == 200
    with contextlib.closing(triton_grpc.InferenceServerClient(guarded.grpc_address)) as client:
        assert client.is_server_live({"authorization": f"Bearer {BOB}"})
        for headers in ({}, {"authorization": f"Bearer {'d' * 32}"}):
            with pytest.raises(triton_grpc.InferenceServerException) as refused:
                client.is_server_live(headers)
            assert refused.value.status() == str(grpc.StatusCode.UNAUTHENTICATED)


def test_a_token_is_bound_to_its_classes(guarded, arrays):
    request = json_request(arrays, tuple(DATATYPES))
    assert guarded.post(request, **bearer(ALICE))[0] == 200
    bulk = {**request, "parameters": {"poise_class": "bulk"}}
    status, answer = guarded.post(bulk, **bearer(ALICE))
    assert (status, answer["error"]) == (403, "this token may not send jobs of class 'bulk'")
    assert guarded.post(bulk, **bearer(BOB))[0] == 200


@pytest.mark.parametrize(
    "path", ["/v2/poise/reload", "/v2/repository/index", "/v2/repository/models/tiny/unload"]
)
def test_only_an_admin_changes_the_server(guarded, path):
    status, _, answer = guarded.request("POST", path, b"", **bearer(BOB))
    assert (status, json.loads(answer)["error"]) == (403, "this token may not change the server's state")


def test_an_admin_does(guarded, tmp_path, monkeypatch):
    assert guarded.request("POST", "/v2/repository/index", b"", **bearer(ADMIN))[0] == 200
    assert "no valid token" in reload(guarded).stderr
    assert reload(guarded, "--token-file", str(written(tmp_path / "admin", ADMIN))).returncode == 0
    monkeypatch.setenv("POISE_TOKEN", ADMIN)
    assert reload(guarded).returncode == 0


def test_another_address_takes_tokens_or_insecurity(tmp_path):
    service = emulated_service(tmp_path / "tiny", STATIC)
    tokens = written(tmp_path / "tokens", f"one: {ALICE}\n")
    line = refused_start(str(service), "--host", "0.0.0.0", "--port", "0")
    assert "clients need no token, expected a loopback address, --token-file FILE" in line
    with serving(service, "--host", "0.0.0.0", "--token-file", str(tokens)) as server:
        server.address = server.address.replace("0.0.0.0", "127.0.0.1")
        assert server.request("GET", "/v2")[0] == 401
        assert "tokens travel in the clear" in server.log()
        # tokens are read anew, as all files are; none of the old ones is of use then
        written(tokens, f"one: {BOB}\n")
        assert server.request("POST", "/v2/poise/reload", b"", **bearer(ALICE))[0] == 200
        assert server.request("GET", "/v2", b"", **bearer(ALICE))[0] == 401
        assert server.request("GET", "/v2", b"", **bearer(BOB))[0] == 200
        written(tokens, "short\n")
        status, _, answer = server.request("POST", "/v2/poise/reload", b"", **bearer(BOB))
        assert status == 409
        assert "tokens:1: got a token of 5 characters" in json.loads(answer)["error"]
        assert server.request("GET", "/v2", b"", **bearer(BOB))[0] == 200


def test_an_address_of_grpc_alone_is_looked_at_too(tmp_path):
    config = written(tmp_path / "server.yaml", "format: 1\ngrpc: {host: 0.0.0.0, port: 0}\n")
    service = copy_tiny(tmp_path / "tiny")
    line = refused_start(str(service), "--port", "0", "--grpc-port", "0", "--config", str(config))
    assert "got host '0.0.0.0', which other machines can reach" in line


def test_without_tokens_other_machines_cannot_have_it_reload_load_or_unload(tmp_path):
    service = emulated_service(tmp_path / "tiny", STATIC)
    with serving(service, "--host", "0.0.0.0", "--insecure", "--repository") as server:
        server.address = server.address.replace("0.0.0.0", "127.0.0.1")
        status, _, answer = server.request("GET", "/v2")
        assert status == 200
        assert "model_repository" not in json.loads(answer)["extensions"]
        paths = ("poise/reload", "repository/index", "repository/models/tiny/unload")
        for path in paths:
            assert server.request("POST", f"/v2/{path}")[0] == http.client.NOT_FOUND, path
        listed = json.loads(server.request("GET", "/openapi.json")[2])["paths"]
        assert "/v2/models/{model}/infer" in listed
        assert not [path for path in listed if "repository" in path or "reload" in path]
        unload = pb.RepositoryModelUnloadRequest(model_name="tiny").SerializeToString()
        with grpc.insecure_channel(server.grpc_address.replace("0.0.0.0", "127.0.0.1")) as channel:
            ask: Any = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelUnload")
            with pytest.raises(grpc.RpcError) as refused:
                ask(unload, timeout=10)
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert server.request("GET", "/v2/health/ready")[0] == 200
        asked = reload(server)
        assert asked.returncode == 2
        assert "(--insecure) takes SIGHUP only, which poise reload PID sends" in asked.stderr
        warned = [line for line in server.log().splitlines() if "--repository" in line]
        assert len(warned) == 1
        assert (
            "no effect over HTTP and gRPC: other machines reach the server, and clients need no" in warned[0]
        )


def test_the_repository_of_this_machine_alone_is_not_warned_of(tmp_path):
    service = emulated_service(tmp_path / "tiny", STATIC)
    with serving(service, "--insecure", "--repository") as server:
        assert server.request("POST", "/v2/repository/index")[0] == 200
        assert "no effect" not in server.log()
