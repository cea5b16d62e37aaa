"""`poise infer` against a real server."""

import json
import subprocess

import numpy as np
import pytest
from tests.servers import POISE, Server
from tests.tiny import TINY

from poise.cli.infer import _load
from poise.errors import ConfigError


def infer(server: Server, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*POISE, "infer", server.url, str(TINY / "test.npz"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_request_in_words(server):
    ended = infer(server, "--items", "2:5")
    assert ended.returncode == 0, ended.stderr
    assert "expected accuracy" in ended.stdout
    assert "image+sound+word" in ended.stdout


def test_a_request_as_json(server):
    ended = infer(
        server, "--item", "3", "--modalities", "sound", "--class", "bulk", "--floor", "0.1", "--json"
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["modalities"] == ["sound"]
    assert told["items"] == 1
    assert len(told["outputs"]["logits"][0]) == 5
    assert told["total_s"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--class", "gold"], "answered 400: parameter poise_class: got 'gold'"),
        (["--modalities", "smell"], "expected some of image+sound+word"),
        (["--items", "5"], "expected a:b"),
        (["--items", "500:501"], "got item 500, and the file has 60 items"),
        (["--items", "5:2"], "got items 5:2, and the file has 60 items"),
        (["--items", "60:"], "got items 60:, and the file has 60 items"),
        (["--item", "99999"], "got item 99999, and the file has 60 items"),
        (["--ca", "/none/ca.pem"], "/none/ca.pem: cannot be used: No such file"),
    ],
)
def test_errors_are_one_line(server, options, words):
    ended = infer(server, *options)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_answers_is_no_server_of_http(server):
    """The port of gRPC: nothing of what comes back is shown."""
    url = f"http://{server.grpc_address}"
    for command in (("reload", url), ("infer", url, str(TINY / "test.npz"))):
        ended = subprocess.run([*POISE, *command], capture_output=True, timeout=100, check=False)
        assert ended.returncode == 2
        line = ended.stderr.decode("ascii")
        assert line.rstrip("\n").isprintable(), line
        assert "expected a running server" in line


def test_a_file_without_inputs_of_the_service(server, tmp_path):
    np.savez(tmp_path / "other.npz", mine=np.zeros(2))
    command = [*POISE, "infer", server.url, str(tmp_path / "other.npz")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 2
    assert "nothing to send: its arrays are mine, expected arrays named as" in ended.stderr


def test_what_is_no_file_of_arrays(tmp_path):
    """Every word is poise's own: numpy's speak of its flags."""
    text, single, objects = tmp_path / "service.yaml", tmp_path / "a.npy", tmp_path / "objects.npz"
    text.write_text("format: 1\n")
    np.save(single, np.zeros(3))
    np.savez(objects, a=np.array([{}, []], object))
    np.savez(tmp_path / "scalar.npz", a=np.float32(1))
    np.savez(tmp_path / "good.npz", a=np.arange(1000))
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "damaged.npz").write_bytes(whole[:500] + bytes(100) + whole[600:])
    (tmp_path / "short.npz").write_bytes(whole[:500])
    for file, words in (
        (text, "service.yaml: it is no .npz, expected an .npz with an array for each input"),
        (single, "it is no .npz"),
        (tmp_path / "short.npz", "it is no .npz"),
        (objects, "'a' is no array of items, or is damaged, expected arrays of numbers or text"),
        (tmp_path / "scalar.npz", "'a' is no array of items"),
        (tmp_path / "damaged.npz", "'a' is no array of items, or is damaged"),
        (tmp_path / "none.npz", "none.npz: cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            _load(file)
        assert words in str(caught.value)
        assert "pickle" not in str(caught.value)
