"""What is shipped beside the package: a unit of systemd, a server file, a Dockerfile."""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from tests.servers import POISE
from tests.serving.test_adapted_server import emulated_service
from tests.serving.test_reload import STATIC

from poise.cli.notify import tell_manager
from poise.serving.server_file import open_server_file

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"


def test_the_server_file_is_one():
    file = open_server_file(PACKAGING / "server.yaml")
    assert file.http.host == "0.0.0.0"
    assert file.tokens


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_understood_by_systemd(tmp_path):
    unit = (PACKAGING / "poise.service").read_text()
    (tmp_path / "poise.service").write_text(unit.replace("/opt/poise/bin/poise", "/bin/true"))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "poise.service")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_a_service_manager_is_told_when_the_server_is_ready(tmp_path):
    service = emulated_service(tmp_path / "tiny", STATIC)
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(60)
        process = subprocess.Popen(
            [*POISE, "serve", str(service), "--port", "0"],
            env={**os.environ, "NOTIFY_SOCKET": str(address)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert manager.recv(100) == b"READY=1"
        finally:
            process.terminate()
            assert process.wait(60) == 0


@pytest.mark.parametrize("address", [None, "", "relative", "/nobody/listens", "@nobody-listens"])
def test_nobody_listens(monkeypatch, address):
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    tell_manager("READY=1")


def test_an_abstract_address(monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0poise-test-{os.getpid()}")
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@poise-test-{os.getpid()}")
        tell_manager("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_the_image_is_of_a_python_that_is_supported_and_not_root():
    text = (PACKAGING / "Dockerfile").read_text()
    assert set(re.findall(r"^FROM python:(\S+?)-", text, re.MULTILINE)) == {"3.11"}
    users = re.findall(r"^USER (\d+):(\d+)$", text, re.MULTILINE)
    assert users
    assert "0" not in users[-1]
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for name in line.split()
    }
    root = PACKAGING.parent
    assert copied
    assert all((root / name).exists() for name in copied), copied
