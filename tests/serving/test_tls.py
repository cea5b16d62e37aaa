"""TLS over both protocols, with certificates that are renewed while the server answers."""

import contextlib
import http.client
import json
import re
import ssl
import subprocess
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton_grpc
import trustme
from tests.servers import POISE, Server, serving
from tests.serving.test_adapted_server import emulated_service
from tests.serving.test_reload import STATIC, reload
from tests.serving.test_server import refused_start

from poise.errors import ConfigError
from poise.ingress import tls
from poise.ingress.tls import Tls


class Authority:
    """Signs certificates, and writes what a server and its clients need of them."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.ca = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca)
        self.certificate, self.key = folder / "cert.pem", folder / "key.pem"
        self.issue()

    def issue(self, name: str = "localhost") -> None:
        """A new certificate in the place of the old one."""
        issued = self._ca.issue_cert(name, "127.0.0.1")
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))

    def client(self) -> tuple[Path, Path]:
        """A client's certificate and key."""
        issued = self._ca.issue_cert("client@example.org")
        certificate, key = self._folder / "client.pem", self._folder / "client.key"
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        return certificate, key


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def ask(server: Server, context: ssl.SSLContext) -> tuple[int, dict]:
    """The status of a request over TLS, and what the server showed of itself."""
    host, _, port = server.address.partition(":")
    connection = http.client.HTTPSConnection(host, int(port), timeout=30, context=context)
    with contextlib.closing(connection):
        connection.request("GET", "/v2/health/ready")
        shown = connection.sock.getpeercert()
        assert shown is not None
        return connection.getresponse().status, shown


def flags(authority: Authority) -> tuple[str, ...]:
    return ("--tls-cert", str(authority.certificate), "--tls-key", str(authority.key))


def test_both_protocols_are_encrypted_and_certificates_are_renewed(tmp_path, authority):
    service = emulated_service(tmp_path / "tiny", STATIC)
    with serving(service, *flags(authority)) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=authority.ca)
        status, shown = ask(server, context)
        assert status == 200
        with pytest.raises(ssl.SSLError):
            ask(server, ssl.create_default_context())
        with pytest.raises((http.client.HTTPException, OSError)):
            server.request("GET", "/v2/health/live")  # in the clear
        assert grpc_is_live(server, authority)
        authority.issue()
        renewed = reload(server, "--ca", str(authority.ca))
        assert renewed.returncode == 0, renewed.stderr
        assert ask(server, context)[1]["serialNumber"] != shown["serialNumber"]
        assert grpc_is_live(server, authority)
        authority.key.write_text("no key")
        refused = reload(server, "--ca", str(authority.ca))
        assert refused.returncode == 2
        assert "cert.pem: cannot be used with key key.pem" in refused.stderr
        assert ask(server, context)[0] == 200
        assert server.terminate() == 0


def grpc_is_live(server: Server, authority: Authority) -> bool:
    client = triton_grpc.InferenceServerClient(
        server.grpc_address, ssl=True, root_certificates=str(authority.ca)
    )
    with contextlib.closing(client):
        return bool(client.is_server_live(client_timeout=30))


def test_clients_show_a_certificate_where_one_is_asked_for(tmp_path, authority):
    service = emulated_service(tmp_path / "tiny", STATIC)
    with serving(service, *flags(authority), "--tls-client-ca", str(authority.ca)) as server:
        context = ssl.create_default_context(cafile=authority.ca)
        with pytest.raises(ssl.SSLError, match="certificate required"):
            ask(server, context)
        certificate, key = authority.client()
        context.load_cert_chain(certificate, key)
        assert ask(server, context)[0] == 200
        with pytest.raises(triton_grpc.InferenceServerException) as refused:
            grpc_is_live(server, authority)
        assert refused.value.status() == str(grpc.StatusCode.UNAVAILABLE)


def test_every_command_shows_a_certificate_where_one_is_asked_for(tmp_path, authority):
    service = emulated_service(tmp_path / "tiny", STATIC)
    certificate, key = authority.client()
    trusts, shows = ("--ca", str(authority.ca)), ("--cert", str(certificate), "--key", str(key))
    sent = ("--service", str(service), "--rate", "20", "--duration", "0.5", "--process", "even", "--json")
    with serving(service, *flags(authority), "--tls-client-ca", str(authority.ca)) as server:
        for command in (
            ("infer", server.url, str(service / "test.npz"), "--json"),
            ("load", server.url, *sent),
            ("reload", server.url),
        ):
            done, without, stranger = (
                subprocess.run(
                    [*POISE, *command, *given], capture_output=True, text=True, timeout=100, check=False
                )
                for given in ((*trusts, *shows), trusts, ())
            )
            assert done.returncode == 0, done.stderr
            if command[0] == "load":
                assert json.loads(done.stdout)["run"]["answered"] == 10
            for refused in (without, stranger):
                assert refused.returncode == 2, refused.stdout
                assert "a running server" in refused.stderr
                assert "Traceback" not in refused.stderr
            if command[0] == "infer":
                assert "does it ask for a certificate (--cert, --key)?" in without.stderr
            assert re.search("certificate (verify failed|not trusted)", stranger.stderr), stranger.stderr
        assert server.terminate() == 0


def test_settings_of_tls_for_a_server_without(tmp_path, authority, tiny):
    url, ca = "http://127.0.0.1:9", ("--ca", str(authority.ca))
    for command in (
        ("infer", url, str(tiny / "test.npz")),
        ("load", url, "--service", str(tiny), "--rate", "20", "--duration", "0.5"),
        ("reload", url),
    ):
        ended = subprocess.run(
            [*POISE, *command, *ca], capture_output=True, text=True, timeout=100, check=False
        )
        assert ended.returncode == 2
        assert "expected an https URL" in ended.stderr


def test_nothing_older_than_tls_1_2_is_spoken(authority, monkeypatch):
    """Whatever this machine's OpenSSL would let pass."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
    monkeypatch.setattr(tls, "_Context", lambda protocol: context)
    assert Tls(authority.certificate, authority.key).http.minimum_version is ssl.TLSVersion.TLSv1_2


def test_files_that_will_not_do_are_named(tmp_path, authority):
    with pytest.raises(ConfigError, match=r"none\.pem: cannot be read: No such file"):
        Tls(tmp_path / "none.pem", authority.key)
    other = trustme.CA().issue_cert("localhost").private_key_pem
    other.write_to_path(tmp_path / "other.key")
    with pytest.raises(
        ConfigError, match=r"cert\.pem: cannot be used with key other\.key: KEY_VALUES_MISMATCH"
    ):
        Tls(authority.certificate, tmp_path / "other.key")
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"no\.pem: cannot be used"):
        Tls(authority.certificate, authority.key, tmp_path / "no.pem")


def test_one_of_two_files_is_refused(tiny, authority):
    line = refused_start(str(tiny), "--port", "0", "--tls-cert", str(authority.certificate))
    assert "got one of --tls-cert and --tls-key, expected both" in line
