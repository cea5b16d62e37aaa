"""The server file: what it may say, what is wrong with it and where, and which flags beat it."""

from pathlib import Path

import pytest
from tests.servers import serving
from tests.serving.test_adapted_server import EMULATED, emulated_service
from tests.serving.test_reload import STATIC

from poise.cli.server_settings import (
    Flags,
    flags_without_effect,
    server_file_of,
    settings_of,
    tokens_of,
    told_now,
)
from poise.errors import ConfigError
from poise.serving.access import Told
from poise.serving.deployment import CellSettings
from poise.serving.server_file import Address, GrpcAddress, ServerFile, open_server_file

WHOLE = """
format: 1
http: {host: 127.0.0.1, port: 9000}
grpc: {port: 9010}
tls: {certificate: tls/cert.pem, key: /etc/poise/key.pem}
tokens:
- {name: team, sha256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef, classes: [bulk]}
- {name: operator, file: operator.token, admin: true}
origins: [https://dashboard.example.org]
limits: {body_bytes: 1000000, connections: 50, idle_s: 10}
history: state/history.sqlite
cache: state
telemetry: {log_json: true, log_level: warning, otel_endpoint: http://127.0.0.1:4318, sample_frac: 0.1}
repository: true
feedback: true
grace_s: 10
arena: 64MiB
"""


def opened(tmp_path: Path, text: str) -> ServerFile:
    (tmp_path / "server.yaml").write_text(text)
    return open_server_file(tmp_path / "server.yaml")


def test_everything_that_a_file_may_say(tmp_path):
    file = opened(tmp_path, WHOLE)
    assert file.http == Address(host="127.0.0.1", port=9000)
    assert file.grpc == GrpcAddress(port=9010)
    assert file.tls is not None
    assert (file.tls.certificate, file.tls.key) == (str(tmp_path / "tls/cert.pem"), "/etc/poise/key.pem")
    assert file.tokens is not None
    assert [(token.name, token.admin) for token in file.tokens] == [("team", False), ("operator", True)]
    assert file.tokens[1].file == str(tmp_path / "operator.token")
    assert file.limits.connections == 50
    assert file.limits.headers == 64
    assert (file.history, file.cache) == (
        str(tmp_path / "state/history.sqlite"),
        str(tmp_path / "state"),
    )
    assert file.arena_bytes == 64 * 2**20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http: {port: 8000}", r"server.yaml:1: missing field 'format'"),
        ("format: 2", r"server.yaml:1: format: "),
        (
            "format: 1\nhtp: {port: 1}",
            r"server.yaml:2: htp: unknown field 'htp', expected one of format, http",
        ),
        ("format: 1\nhttp: {port: 70000}", r"server.yaml:2: http.*got port 70000, expected 0 to 65535"),
        ("format: 1\ninsecure: true\ngrace_s: -1", r"server.yaml:3: grace_s: got -1.0, expected a finite"),
        ("format: 1\n\narena: 5XB", r"server.yaml:3: arena: got '5XB', expected a positive size"),
        ("format: 1\n\ngrpc: {port: -1}", r"server.yaml:3: grpc.*got port -1, expected 0 to 65535"),
        ("format: 1\n\ngrpc: {host: ''}", r"server.yaml:3: grpc.*got an empty host"),
        (
            "format: 1\nhttp: {host: 127.0.0.1, port: 5}\ngrpc: {port: 5}",
            r"server.yaml:3: grpc: got port 5, which is HTTP's",
        ),
        (
            "format: 1\nlimits:\n  body_bytes: 9\n  bodies_bytes: 8",
            r"server.yaml:4: limits.bodies_bytes: got 8, expected at least the 9 of body_bytes",
        ),
        ("format: 1\n\nlimits:\n  body_byts: 1", r"server.yaml:4: limits.body_byts: unknown field"),
        (
            "format: 1\nlimits: {connections: 0}",
            r"limits.*got connections 0, expected a whole number of at least 1",
        ),
        ("format: 1\ntls: {certificate: a.pem}", r"server.yaml:2: tls: missing field 'key'"),
        ("format: 1\ntokens: [{name: a}]", r"got token 'a' with neither or both, expected sha256 or file"),
        ("format: 1\ntokens: [{name: a, sha256: ff}]", r"sha256: got 'ff', expected 64 of 0-9 a-f"),
        ("format: 1\ntokens: [{name: a b, file: x}]", r"name: got 'a b', expected 1 to 64 of"),
        ("format: 1\ntokens: [{name: a, file: x}, {name: a, file: y}]", r"tokens: got name 'a' twice"),
        ("format: 1\norigins: [example.org]", r"origins: got 'example.org', expected https://HOST"),
        (
            "format: 1\ntelemetry: {log_level: loud}",
            r"server.yaml:2: telemetry.log_level: got 'loud', expected one of",
        ),
        ("format: 1\ntelemetry: {sample_frac: 2}", r"got sample_frac 2.0, expected a number from 0 to 1"),
        ("format: 1\narena: much", r"server.yaml:2: arena: got 'much', expected a positive size"),
        ("format: 1\nformat: 1", r"server.yaml:2: format: duplicate key"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        opened(tmp_path, text)


def test_every_field_but_the_format_has_a_default(tmp_path):
    file = opened(tmp_path, "format: 1\nhttp: {host: localhost}\ngrpc: {host: localhost}")
    assert (file.http.port, file.grpc_port) == (8000, 8001)
    assert opened(tmp_path, "format: 1\nhttp: {}\ngrpc: {}") == ServerFile(format=1)
    assert (
        opened(tmp_path, "format: 1\nhttp: {host: localhost, port: 5}\ngrpc: {host: '::1', port: 5}").grpc
        is not None
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (Flags(origins=("foo",)), r"origins: got 'foo', expected https://HOST"),
        (
            Flags(port=65535),
            r"no port for gRPC, as HTTP has 65535 and there is none after it, expected --grpc-port PORT or --no-grpc",
        ),
        (Flags(port=8001, grpc_port=8001), r"grpc: got port 8001, which is HTTP's, expected another"),
        (Flags(grpc=False, grpc_port=5), r"got --no-grpc and --grpc-port, expected one of them"),
        (Flags(grace_s=float("nan")), r"grace_s: got nan"),
    ],
)
def test_flags_that_do_not_do_are_the_operators_fault(flags, words):
    with pytest.raises(ConfigError, match=words):
        server_file_of(flags)


@pytest.mark.parametrize("endpoint", ["http://", "http://host:99999", "host:4318", "http://:4318"])
def test_an_endpoint_that_is_no_url(endpoint):
    with pytest.raises(ConfigError, match=r"otel_endpoint: got .*, expected http://HOST:PORT"):
        settings_of(server_file_of(Flags(otel_endpoint=endpoint)), CellSettings())


def test_a_larger_body_has_room_among_all_bodies():
    limits = server_file_of(Flags(max_body_mb=1024.0)).limits
    assert limits.bodies_bytes >= limits.body_bytes == 2**30


def test_grpc_comes_back_by_its_flag(tmp_path):
    opened(tmp_path, "format: 1\ngrpc: null")
    config = tmp_path / "server.yaml"
    assert server_file_of(Flags(config=config)).grpc_port is None
    assert server_file_of(Flags(config=config, grpc=True)).grpc_port == 8001
    assert server_file_of(Flags(config=config, grpc_port=7)).grpc_port == 7


def test_one_secret_is_not_for_two(tmp_path):
    token = f"sha256: {'a' * 64}"
    file = opened(tmp_path, f"format: 1\ntokens: [{{name: a, {token}}}, {{name: b, {token}}}]")
    with pytest.raises(ConfigError, match="tokens: got the secret of 'a' for 'b' too"):
        tokens_of(file, None)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"no server file at .*none\.yaml.*No such file"):
        open_server_file(tmp_path / "none.yaml")


def test_flags_beat_the_file(tmp_path):
    opened(tmp_path, WHOLE)
    given = Flags(
        config=tmp_path / "server.yaml",
        port=0,
        grace_s=1.0,
        max_body_mb=2.0,
        arena_mb=1.0,
        cache=str(tmp_path),
    )
    file = server_file_of(given)
    settings = settings_of(file, CellSettings(policy="edf"))
    assert (settings.port, settings.grpc_port, settings.grace_s) == (0, 0, 1.0)
    assert settings.limits.body_bytes == 2 * 2**20
    assert settings.limits.connections == 50
    assert (settings.cells.policy, settings.cells.arena_bytes) == ("edf", 2**20)
    assert settings.repository
    assert server_file_of(Flags(config=tmp_path / "server.yaml", grpc=False)).grpc is None


@pytest.mark.parametrize(
    ("text", "flags", "port"),
    [
        ("", {}, 8001),
        ("", {"port": 9000}, 9001),
        ("", {"port": 0}, 0),
        ("", {"port": 9000, "grpc_port": 7}, 7),
        ("", {"grpc": False}, None),
        ("http: {host: 127.0.0.1, port: 18800}", {}, 18801),
        ("http: {port: 18800}\ngrpc: {host: localhost}", {}, 18801),
        ("http: {port: 8001}", {}, 8002),
        ("http: {port: 0}", {}, 0),
        ("http: {port: 18800}\ngrpc: {port: 5}", {}, 5),
        ("http: {port: 18800}\ngrpc: {port: 5}", {"port": 9000}, 9001),
        ("http: {port: 18800}\ngrpc: null", {}, None),
        ("http: {port: 65535}", {"grpc": False}, None),
        ("http: {port: 65535}", {"grpc_port": 7}, 7),
    ],
)
def test_grpc_has_the_port_after_that_of_http(tmp_path, text, flags, port):
    (tmp_path / "server.yaml").write_text(f"format: 1\n{text}\n")
    given = Flags(config=tmp_path / "server.yaml", **flags)
    assert settings_of(server_file_of(given), CellSettings()).grpc_port == port


def test_there_is_no_port_after_the_last(tmp_path):
    opened(tmp_path, "format: 1\nhttp: {port: 65535}\n")
    with pytest.raises(ConfigError, match=r"gRPC.*HTTP has 65535.*--grpc-port PORT or --no-grpc.*grpc\.port"):
        server_file_of(Flags(config=tmp_path / "server.yaml"))


@pytest.mark.parametrize(
    ("flags", "adapted", "words"),
    [
        (Flags(history="a"), False, ["--history has no effect: no adapter"]),
        (Flags(history="a"), True, []),
        (Flags(sample_frac=0.5), True, ["--sample-frac has no effect: no collector"]),
        (Flags(sample_frac=0.5, otel_endpoint="http://127.0.0.1:4318"), False, []),
        (Flags(), False, []),
    ],
)
def test_a_flag_without_effect_is_said_to_be_one(flags, adapted, words):
    found = flags_without_effect(flags, server_file_of(flags), adapted=adapted)
    assert [each.partition(" (")[0][: len(said)] for each, said in zip(found, words, strict=True)] == words


def test_flags_without_effect_are_warned_of_once(tmp_path):
    service = emulated_service(tmp_path / "tiny", STATIC)
    flags = ("--history", str(tmp_path / "kept"), "--sample-frac", "0.5")
    with serving(service, *flags) as server:
        assert server.request("POST", "/v2/poise/reload")[0] == 200
        log = server.log()
    assert log.count("--history has no effect") == log.count("--sample-frac has no effect") == 1
    assert log.count("no effect") == 2
    assert not (tmp_path / "kept").exists()


def test_tokens_of_file_and_flag_are_of_different_names(tmp_path):
    for name in ("operator.token", "more"):
        (tmp_path / name).write_text(f"operator: {'x' * 32}" if name == "more" else "y" * 32)
        (tmp_path / name).chmod(0o600)
    file = opened(tmp_path, WHOLE)
    tokens = tokens_of(file, None)
    assert tokens is not None
    assert [token.identity.classes for token in tokens] == [frozenset({"bulk"}), None]
    assert tokens_of(ServerFile(format=1), None) is None
    with pytest.raises(ConfigError, match="tokens: got name 'operator' twice"):
        tokens_of(file, tmp_path / "more")


def test_what_cannot_be_taken_up_is_warned_of(tmp_path, caplog):
    opened(tmp_path, "format: 1\ntokens: []\n")
    flags = Flags(config=tmp_path / "server.yaml")
    begun = server_file_of(flags)
    assert told_now(flags, begun) == Told(())
    opened(tmp_path, f"format: 1\ntokens: [{{name: a, sha256: {'a' * 64}}}]\n")
    assert told_now(flags, begun).tokens
    assert not caplog.records
    opened(tmp_path, "format: 1\ntokens: []\ngrace_s: 1\nlimits: {headers: 1}\n")
    assert told_now(flags, begun) == Told((), ("limits", "grace_s"))
    assert "what the server file says of limits, grace_s holds from the next start" in caplog.text


def test_a_service_folder_may_be_read_only(tmp_path):
    service = emulated_service(tmp_path / "tiny", EMULATED)
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "server.yaml").write_text("format: 1\ncache: state\nhistory: state/history.sqlite\n")
    before = sorted(path.name for path in service.iterdir())
    with serving(service, "--config", str(tmp_path / "server.yaml")) as server:
        assert server.request("GET", "/v2/health/ready")[0] == 200
        assert server.terminate() == 0
    assert sorted(path.name for path in service.iterdir()) == before
    assert {"tiny.emulated_profile.json.rates", "history.sqlite"} <= {path.name for path in state.iterdir()}


def test_a_cache_that_is_no_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"cache: got '.*none', expected a folder that is there"):
        settings_of(server_file_of(Flags(cache=str(tmp_path / "none"))), CellSettings())
