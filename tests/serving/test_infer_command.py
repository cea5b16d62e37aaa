"""`poise infer` against a real server."""

import json
import subprocess

import pytest
from tests.servers import POISE, TINY, Server


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
        (["--items", "500:501"], "nothing to send"),
    ],
)
def test_errors_are_one_line(server, options, words):
    ended = infer(server, *options)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
