"""Labels that come later: accuracy observed beside accuracy expected, for requests that gave themselves an id."""

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tests.servers import DATATYPES, Server, copy_tiny, serving
from tests.serving.test_reload import posted
from tests.tiny import TINY

from poise.client import Client
from poise.domain.job import Job
from poise.errors import ConfigError, ConflictError, MalformedRequestError, NotFoundError, NotReadyError
from poise.files import open_service
from poise.ingress.gate import Answered, PendingJob, Refused
from poise.scheduling.commands import Answer, AnswerPart
from poise.serving import feedback
from poise.serving.aside import MAX_ASTRAY, Aside
from poise.serving.feedback import Feedback, FeedbackLimits, Scorer

LABELS = "/v2/models/tiny/labels"


class Gate:
    """As much of a gate as labels need."""

    class wire:  # noqa: N801
        name = "tiny"

    def label(self, mask: int) -> str:
        return "image+sound+word" if mask == 7 else "sound"


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Store:
    """Feedback with answers of two items: the first is right if its label is 2, the second if it is 4."""

    def __init__(self, folder: Path = TINY, **limits: float) -> None:
        self.clock = Clock()
        self.feedback = Feedback(FeedbackLimits(**limits), self.clock)  # type: ignore[arg-type]
        self.gate = Gate()
        opened = open_service(folder)
        self.feedback.add(self.gate, Scorer(opened, opened.load_profile()))  # type: ignore[arg-type]

    def answer(self, request_id: str, sender: str = "", *, refused: bool = False) -> None:
        job = Job(id=1, slo_class="bulk", items=2, arrival_s=0, deadline_s=1, accuracy_floor=0, available=7)
        pending = PendingJob(job, 0)
        self.feedback.expect(self.gate, pending, request_id, sender)  # type: ignore[arg-type]
        parts = (AnswerPart(0, 1, 7, "late"), AnswerPart(1, 1, 2, "late"))
        logits = np.zeros((2, 5), np.float32)
        logits[0, 2] = logits[1, 4] = 1
        answer = Answer(job_id=1, parts=parts, accuracy=0.7, queue_s=0, compute_s=0, late=False)
        answered = Answered(answer, {"logits": logits, "score": logits.max(axis=1, keepdims=True)})
        pending.settle(Refused("displaced", "") if refused else answered)  # type: ignore[arg-type]

    def label(self, request_id: str, labels: list, sender: str = "") -> float:
        given = self.feedback.label(self.gate, request_id, sender, labels)  # type: ignore[arg-type]
        return asyncio.run(given).accuracy_observed

    def metric(self, name: str) -> dict[str, float]:
        families = {family.name: family for family in self.feedback.counts_of("tiny").collect()}
        return {sample.labels["modalities"]: sample.value for sample in families[name].samples}


def test_labels_are_counted_by_mode():
    store = Store()
    store.answer("a")
    store.answer("b")
    assert store.label("a", [2, 3]) == 0.5
    assert store.label("b", [1, 4]) == 0.5
    both = {"image+sound+word", "sound"}
    assert store.metric("poise_labelled_items") == dict.fromkeys(both, 2)
    assert store.metric("poise_accuracy_observed_items") == dict.fromkeys(both, 1)
    measured = {mode.label: mode.accuracy for mode in open_service(TINY).load_profile().variant("late").modes}
    assert store.metric("poise_accuracy_expected_labelled_items") == pytest.approx(
        {label: 2 * measured[label] for label in both}
    )


def test_only_the_sender_labels_and_only_once():
    store = Store()
    store.answer("a", "alice")
    with pytest.raises(NotFoundError):
        store.label("a", [2, 4], "bob")
    with pytest.raises(NotFoundError):
        store.label("a", [2, 4])
    assert store.label("a", [2, 4], "alice") == 1
    with pytest.raises(ConflictError, match="labelled before"):
        store.label("a", [2, 4], "alice")
    assert store.metric("poise_labelled_items") == {"image+sound+word": 1, "sound": 1}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([2], "got 1, expected 2, one for each item"),
        ([2, 4, 1], "got 3, expected 2"),
        ([2, "4"], "^got labels that are texts, or some of them, of shape"),
        ([2.5, 4.0], "labels that are numbers with fractions, .*expected whole numbers"),
        ([True, False], "labels that are true or false"),
        ([[2], [4]], r"shape \[n, 1\], expected whole numbers \[n\]"),
        ([2, 5], "labels from 2 to 5, expected 0 to 4"),
        ([2, -1], "labels from -1 to 2"),
        ([[1], [1, 2]], "some of different shapes"),
        ([None, 2], "^labels: got null, expected numbers"),
        ([2, {}], "^labels: got an object, expected numbers"),
        ([10**30, 2], "^labels: got a number beyond 64 bits"),
    ],
)
def test_labels_that_cannot_be_scored_change_nothing(labels, words):
    store = Store()
    store.answer("a")
    with pytest.raises(MalformedRequestError, match=words):
        store.label("a", labels)
    assert store.metric("poise_labelled_items") == {}
    assert store.label("a", [2, 4]) == 1


def test_labels_are_read_only_if_they_are_as_many_as_items(monkeypatch):
    store = Store()
    store.answer("a")
    number = msgspec.Raw(b"9e-324")
    with monkeypatch.context() as patch:
        patch.setattr(feedback, "_label_decoder", None)
        with pytest.raises(MalformedRequestError, match="got 9000, expected 2"):
            store.label("a", [number] * 9000)
    with pytest.raises(MalformedRequestError, match="labels that are numbers with fractions"):
        store.label("a", [number] * 2)
    with pytest.raises(MalformedRequestError, match="no JSON"):
        store.label("a", [msgspec.Raw(b'"\\ud800"'), msgspec.Raw(b"2")])
    long = b'["' + b"x" * 30_000 + b'"' + b',"a"' * 1000 + b"]"
    with pytest.raises(MalformedRequestError, match="too long for so many"):
        store.label("a", [msgspec.Raw(long)] * 2)
    assert store.label("a", [msgspec.Raw(b"2"), msgspec.Raw(b" " * 20_000 + b"4")]) == 1  # read in a thread


def test_what_waits_is_bounded():
    store = Store(answers=2)
    for request_id in "abc":
        store.answer(request_id)
    assert len(store.feedback) == 2
    with pytest.raises(NotFoundError):
        store.label("a", [2, 4])
    store = Store(outputs_bytes=100)  # two of 48 bytes
    for request_id in "abc":
        store.answer(request_id)
    assert len(store.feedback) == 2
    store = Store(age_s=10)
    store.answer("a")
    store.clock.now_s = 9
    store.answer("b")
    store.clock.now_s = 11
    with pytest.raises(NotFoundError):
        store.label("a", [2, 4])
    assert store.label("b", [2, 4]) == 1


def test_an_id_that_comes_again_stands_for_the_last_request():
    store = Store()
    store.answer("a")
    store.label("a", [2, 4])
    store.answer("a")
    assert store.label("a", [0, 0]) == 0
    assert len(store.feedback) == 1


def test_jobs_without_an_answer_or_an_id_are_not_kept():
    store = Store()
    store.answer("a", refused=True)
    store.answer("")
    store.answer("x" * 129)
    assert len(store.feedback) == 0


def service_with(metric: str, folder: Path) -> Path:
    """The tiny service with a metric of the operator's own."""
    copy_tiny(folder)
    (folder / "mine.py").write_text(metric)
    file = folder / "service.yaml"
    file.write_text(file.read_text() + "metric: python:mine:score\n")
    return folder


def test_the_operators_own_metric_scores(tmp_path):
    metric = (
        "def score(outputs, labels):\n"
        "    if (labels == 'secret').any():\n        raise ValueError('the inside')\n"
        "    return [0.25 if label == 'near' else 1.0 for label in labels]\n"
    )
    store = Store(service_with(metric, tmp_path / "tiny"))
    store.answer("a")
    with pytest.raises(MalformedRequestError) as refused:
        store.label("a", ["secret", "near"])
    assert "the inside" not in str(refused.value)
    assert store.label("a", ["near", "there"]) == 0.625


def test_a_metric_that_ends_the_process_does_not(tmp_path, caplog):
    folder = service_with("import sys\n\ndef score(outputs, labels):\n    sys.exit(3)\n", tmp_path / "tiny")
    store = Store(folder)
    store.answer("a")
    with pytest.raises(MalformedRequestError, match="could not score"):
        store.label("a", [2, 4])
    (folder / "mine.py").write_text("import sys\n\nsys.exit('wants another library')\n")
    Store(folder)
    assert "mine.py fails when imported: SystemExit: wants another library" in caplog.text


def test_a_metric_that_hangs_costs_its_own_labels(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(feedback, "SCORE_LIMIT_S", 0.2)
    metric = (
        "import threading\n\ndef score(outputs, labels):\n"
        "    if labels[0] == 0:\n        threading.Event().wait()\n"
        "    return [1.0 for label in labels]\n"
    )
    store = Store(service_with(metric, tmp_path / "tiny"))
    for number in range(MAX_ASTRAY):
        store.answer(str(number))
        with pytest.raises(NotReadyError, match="did not score these labels in time"):
            store.label(str(number), [0, 0])
        if number + 1 < MAX_ASTRAY:
            store.answer("good")
            assert store.label("good", [1, 1]) == 1
    store.answer("good")
    with pytest.raises(NotReadyError):
        store.label("good", [1, 1])  # so many threads hang that none is added
    assert "did not score 2 labels in time" in caplog.text


def test_a_metric_that_is_never_imported_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(feedback, "IMPORT_LIMIT_S", 0.2)
    opened = open_service(service_with("import threading\n\nthreading.Event().wait()\n", tmp_path / "tiny"))
    opening = Feedback().open(Gate(), opened, opened.load_profile())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="metric python:mine:score was not there after 0 s"):
        asyncio.run(opening)


def test_a_call_that_comes_back_late_is_nobodys():
    late, calls = threading.Event(), Aside()

    async def whole() -> None:
        with pytest.raises(TimeoutError):
            await calls.call(late.wait, 0.05)
        assert calls._astray == 1
        late.set()
        while calls._astray:
            await asyncio.sleep(0.001)
        assert await calls.call(lambda: 7, 60.0) == 7
        with pytest.raises(RuntimeError, match="ended with SystemExit"):
            await calls.call(sys.exit, 60.0)

    asyncio.run(whole())


def test_a_metric_that_does_not_fit_takes_no_labels(tmp_path, caplog):
    folder = copy_tiny(tmp_path / "tiny")
    file = folder / "service.yaml"
    file.write_text(file.read_text() + "metric: python:none:score\n")
    store = Store(folder)
    assert "labels for service tiny are not taken" in caplog.text
    store.answer("a")
    with pytest.raises(ConflictError, match="does not score labels"):
        store.label("a", [2, 4])


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("labelled")
    tokens = folder / "tokens"
    tokens.write_text(f"alice: {'a' * 32}\nbob: {'b' * 32}\n")
    tokens.chmod(0o600)
    with serving(copy_tiny(folder / "tiny", workers=1), "--feedback", "--token-file", str(tokens)) as server:
        yield server


def bearer(letter: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {letter * 32}"}


def test_a_server_takes_labels_over_http(labelled, arrays):
    server = labelled
    with np.load(TINY / "test.npz") as archive:
        labels = archive["label"][:3]
    with Client(server.url, token="a" * 32) as alice, Client(server.url, token="b" * 32) as bob:
        inputs = {name: arrays[name][:3] for name in DATATYPES}
        answer = alice.infer("tiny", inputs, request_id="seven")
        right = answer.outputs["logits"].argmax(axis=1) == labels
        with pytest.raises(NotFoundError):
            bob.label("tiny", "seven", labels)
        alice.label("tiny", "seven", labels)
        with pytest.raises(ConflictError):
            alice.label("tiny", "seven", labels)
    text = server.request("GET", "/metrics", b"", **bearer("a"))[2].decode()
    observed = sum(
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("poise_accuracy_observed_items_total{")
    )
    assert observed == right.sum()


def test_and_of_requests_over_grpc(labelled, arrays):
    server = labelled
    inputs = []
    for name, datatype in DATATYPES.items():
        tensor = triton_grpc.InferInput(name, list(arrays[name][:1].shape), datatype)
        tensor.set_data_from_numpy(arrays[name][:1])
        inputs.append(tensor)
    headers = {"authorization": f"Bearer {'b' * 32}"}
    with contextlib.closing(triton_grpc.InferenceServerClient(server.grpc_address)) as client:
        client.infer("tiny", inputs, request_id="nine", headers=headers)
        assert "poise_labels" in client.get_server_metadata(headers).extensions
    body = json.dumps({"id": "nine", "labels": [0]}).encode()
    status, _, answer = server.request("POST", LABELS, body, **bearer("b"))
    assert status == 200
    assert json.loads(answer).keys() == {"id", "items", "accuracy_observed", "accuracy_expected"}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "the request is not JSON: got nothing, expected an object; expected a JSON object of id"),
        (b"{}", 400, "the request is not as the protocol says: Object missing required field `id`; expected"),
        (b'{"id": "x", "labels": [1], "more": 1}', 400, "Object contains unknown field `more`; expected a"),
        (b'{"id": "x", "labels": [NaN]}', 400, "the request is not JSON: got NaN or an infinity at byte 23"),
        (b'{"id": "x", "labels": [1], "' + b"m" * 1000 + b'": 1}', 400, "mmm...; expected a JSON object"),
        (b'{"id": "x", "labels": ' + b"[" * 50_000, 400, "nested too deeply"),
        (b'{"id": "x", "labels": ' + b"[" * 9 + b"]" * 9 + b"}", 413, "nested too deeply"),
        (b'{"id": "nix", "labels": [1]}', 404, "nothing is kept of a request 'nix'"),
        (b'{"id": "x", "labels": [' + b"1," * 2**20 + b"1]}", 413, "bytes of labels"),
    ],
)
def test_bodies_that_are_no_labels(labelled, body, status, words):
    got, _, answer = labelled.request("POST", LABELS, body, **bearer("a"))
    assert got == status, answer
    assert words in json.loads(answer)["error"]


def test_labels_are_not_taken_unless_told(server):
    assert posted(server, LABELS, {"id": "x", "labels": [1]})[0] == 404
