"""Files that a server is set up by: regular ones of bounded size, of whatever kind the others are."""

import os
from pathlib import Path

import pytest

from poise.errors import ConfigError
from poise.files.regular import read_regular
from poise.files.service_folder import open_service
from poise.ingress.tokens import read_token_file
from poise.serving.server_file import open_server_file


def test_a_file_is_read_up_to_its_limit(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_regular(file, 5) == b"12345"
    with pytest.raises(ConfigError, match="larger than 4 bytes"):
        read_regular(file, 4)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none", 4)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 4)


def test_what_a_file_says_of_its_size_does_not_decide():
    with pytest.raises(ConfigError, match="larger than 4 bytes"):
        read_regular(Path("/proc/self/status"), 4)  # its size is said to be 0


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("reads", [read_token_file, open_server_file])
def test_a_pipe_or_device_is_refused_at_once(tmp_path, kind, reads):
    file = Path("/dev/zero")
    if kind == "pipe":
        file = tmp_path / "pipe"
        os.mkfifo(file)
    with pytest.raises(ConfigError, match="regular file"):
        reads(file)


def test_a_service_whose_file_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "service.yaml")
    with pytest.raises(ConfigError, match="service"):
        open_service(tmp_path)
