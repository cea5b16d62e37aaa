"""The flags by which a command reaches a server, and what is wrong with them."""

import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from poise.cli.connecting import TOKEN, tls_with, token_of
from poise.errors import ConfigError

SECRET = "s" * 32


@pytest.fixture
def pems(tmp_path: Path) -> tuple[Path, Path, Path]:
    """An authority's certificate, and another with its key."""
    authority = trustme.CA()
    issued = authority.issue_cert("client@example.org")
    ca, cert, key = (tmp_path / name for name in ("ca.pem", "client.pem", "client.key"))
    authority.cert_pem.write_to_path(ca)
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    return ca, cert, key


def test_files_that_will_do(pems):
    ca, cert, key = pems
    assert tls_with(None, None, None) is None
    only = tls_with(ca, None, None)
    assert only is not None
    assert [each["subject"] for each in only.get_ca_certs()] == [
        each["subject"] for each in ssl.create_default_context(cafile=ca).get_ca_certs()
    ]
    for given in (tls_with(ca, cert, key), tls_with(None, cert, key)):
        assert given is not None
        assert given.verify_mode is ssl.CERT_REQUIRED
        assert given.check_hostname


def test_files_that_will_not_do_are_named(tmp_path, pems):
    ca, cert, key = pems
    none = tmp_path / "none.pem"
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"none\.pem: cannot be used: No such file"):
        tls_with(none, None, None)
    with pytest.raises(ConfigError, match=r"no\.pem: cannot be used: NO_CERTIFICATE"):
        tls_with(tmp_path / "no.pem", None, None)
    with pytest.raises(ConfigError, match=r"none\.pem: cannot be read: No such file"):
        tls_with(ca, cert, none)
    with pytest.raises(ConfigError, match=r"client\.pem: cannot be used with key '.*no\.pem'"):
        tls_with(ca, cert, tmp_path / "no.pem")
    for given in ((ca, cert, None), (ca, None, key)):
        with pytest.raises(ConfigError, match="got one of --cert and --key, expected both"):
            tls_with(*given)


def test_nobody_is_asked_for_the_password_of_a_key(pems):
    ca, cert, key = pems
    locked = load_pem_private_key(key.read_bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    key.write_bytes(locked)
    with pytest.raises(ConfigError, match="the key is locked by a password"):
        tls_with(ca, cert, key)


def test_the_token_of_a_file_beats_that_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    assert token_of(None) is None
    monkeypatch.setenv(TOKEN, "")
    assert token_of(None) is None
    monkeypatch.setenv(TOKEN, "told")
    assert token_of(None) == "told"
    (tmp_path / "token").write_text(f"{SECRET}\n")
    assert token_of(tmp_path / "token") == SECRET


def test_a_token_that_cannot_be_sent(tmp_path, monkeypatch):
    monkeypatch.setenv(TOKEN, "tökén")
    with pytest.raises(ConfigError, match="no header can carry"):
        token_of(None)
    with pytest.raises(ConfigError, match="No such file"):
        token_of(tmp_path / "none")
