"""A real server for each runtime that runs models, with inputs of any length, and a client that nobody here wrote."""

import concurrent.futures
import http
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from tests.runtimes.exporting import export_all
from tests.runtimes.lengths import BUCKETS, LENGTHS, SPEECH, WORD, bucket_of, logits_of
from tests.servers import Server, serving

MASKS = {"speech": SPEECH, "word": WORD, "speech+word": SPEECH | WORD}


def copy_lengths(target: Path, file: str) -> Path:
    shutil.copytree(LENGTHS, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / file).replace(target / "service.yaml")
    return target


@pytest.fixture(scope="module", params=["onnx", "python", "torch"])
def server(request, tmp_path_factory) -> Iterator[Server]:
    """A server of one worker that holds both layouts."""
    runtime = request.param
    folder = tmp_path_factory.mktemp(runtime) / "lengths"
    if runtime == "torch":
        pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")
    copy_lengths(folder, "service.yaml" if runtime == "onnx" else f"{runtime}.yaml")
    if runtime == "torch":
        export_all(folder)
    with serving(folder) as running:
        yield running


def ask(server: Server, arrays: dict[str, np.ndarray], *, binary: bool = True) -> triton.InferResult:
    client = triton.InferenceServerClient(server.address, network_timeout=60, connection_timeout=60)
    inputs = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), "FP32")
        tensor.set_data_from_numpy(array, binary_data=binary)
        inputs.append(tensor)
    try:
        return client.infer(server.service, inputs)
    finally:
        client.close()


def inputs(items: int, length: int | None, *, word: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(100 * items + (length or 0))
    arrays = {}
    if length is not None:
        arrays["frames"] = rng.normal(size=(items, length, 2)).astype(np.float32)
    if word:
        arrays["letters"] = rng.normal(size=(items, 3)).astype(np.float32)
    return arrays


def check(result: triton.InferResult, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Hold the logits against numpy, for the modality sets that were used; return the lengths that models saw."""
    labels = result.get_response()["parameters"]["poise_modalities"].split(",")
    masks = np.array([MASKS[label] for label in labels])
    rows = np.arange(len(labels))
    whole = {
        "frames": np.zeros((len(rows), 1, 2), np.float32),
        "letters": np.zeros((len(rows), 3), np.float32),
    }
    expected = logits_of({**whole, **arrays}, rows, masks)
    np.testing.assert_allclose(result.as_numpy("logits"), expected, atol=1e-4)
    padded: np.ndarray = result.as_numpy("padded")[:, 0]
    return padded


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("word", [True, False])
@pytest.mark.parametrize("length", [1, 4, 5, 8, 11, 16])
def test_a_job_alone_runs_at_its_own_bucket(server, length, word, binary):
    arrays = inputs(3, length, word=word)
    padded = check(ask(server, arrays, binary=binary), arrays)
    assert padded.tolist() == [bucket_of([length])] * 3


def test_without_speech_nothing_is_padded(server):
    arrays = inputs(2, None)
    assert check(ask(server, arrays), arrays).tolist() == [0, 0]


def test_rows_that_held_a_longer_item_before_show_nothing_of_it(server):
    for length in (16, 2, 6, 1):
        arrays = inputs(4, length)
        assert check(ask(server, arrays), arrays).tolist() == [bucket_of([length])] * 4


def test_jobs_of_different_lengths_at_once(server):
    def one(i: int) -> None:
        length = 1 + i % 16
        arrays = inputs(1 + i % 5, length, word=i % 3 > 0)
        padded = check(ask(server, arrays), arrays)
        assert set(padded.tolist()) <= set(BUCKETS)
        assert padded.min() >= length

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(64)))


def test_what_is_longer_than_every_bucket_is_refused(server):
    frames = [[[0.0, 0.0]] * 17]
    request = {"inputs": [{"name": "frames", "datatype": "FP32", "shape": [1, 17, 2], "data": frames}]}
    status, answer = server.post(request)
    assert status == http.HTTPStatus.BAD_REQUEST
    expected = "expected [n, 1..16, 2] (padded to buckets 4, 8, 16) with"
    assert f"input 'frames': got shape [1, 17, 2], {expected}" in answer["error"]


def test_code_that_raises_fails_its_batch_and_no_more(tmp_path):
    folder = copy_lengths(tmp_path / "lengths", "python.yaml")
    code = (folder / "mine.py").read_text()
    line = '        frames = given["frames"]\n'
    assert line in code
    raising = "        if frames.max() > 200:\n            raise SystemExit('too much')\n"
    raising += "        if frames.max() > 100:\n            raise ValueError('too loud')\n"
    (folder / "mine.py").write_text(code.replace(line, line + raising))
    good = inputs(1, 5)
    with serving(folder) as server:
        before = [worker.pid for worker in server.workers()]
        for loud, words in ((150, "ValueError: too loud"), (300, "SystemExit: too much")):
            frames = np.full((1, 5, 2), loud, np.float32)
            request = {
                "inputs": [
                    {
                        "name": "frames",
                        "datatype": "FP32",
                        "shape": [1, 5, 2],
                        "data": frames.ravel().tolist(),
                    }
                ]
            }
            status, answer = server.post(request)
            assert status == http.HTTPStatus.INTERNAL_SERVER_ERROR
            assert words.partition(": ")[2] not in answer["error"]  # a model's words are the operator's
            assert f"stage 'speech': {words}" in server.log()
            assert check(ask(server, good), good).tolist() == [8]
        assert [worker.pid for worker in server.workers()] == before


def test_code_that_does_not_load_stops_the_start_with_its_words(tmp_path):
    folder = copy_lengths(tmp_path / "lengths", "python.yaml")
    (folder / "mine.py").write_text("def load(folder, threads, device):\n    raise OSError('no such disk')\n")
    with (
        pytest.raises(AssertionError, match=r"load\(\) of mine.py fails: OSError: no such disk"),
        serving(folder),
    ):
        pass


def test_torch_is_imported_only_where_it_is_needed():
    """The other runtimes, the server and the command line do without it."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import poise.cli.main, poise.serving.server, poise.runtimes.onnx, poise.runtimes.python\n"
        "import poise.runtimes.torch_export, poise.profiling\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
