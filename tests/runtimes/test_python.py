"""The operator's code: what it must take and give is named, and whatever it raises is the variant's failure."""

from __future__ import annotations

import numpy as np
import pytest
from tests.runtimes.lengths import arena_of, copy_lengths

from poise.errors import ConfigError, PoiseError, WorkerError
from poise.files import open_service
from poise.runtimes import open_variant

FACTORY = "mine.py: variants.late.factory: "


@pytest.fixture
def folder(tmp_path):
    return copy_lengths(tmp_path / "lengths", "python.yaml")


def changed(folder, old: str, new: str) -> None:
    code = (folder.root / "mine.py").read_text()
    assert old in code
    (folder.root / "mine.py").write_text(code.replace(old, new))


def opened(folder, variant: str = "late"):
    return open_variant(folder.service, variant, folder.resolve, threads=2)


def refusal(folder, kind: type[PoiseError] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        opened(folder)
    return str(caught.value)


def test_the_factory_is_told_the_folder_the_threads_and_the_device(folder):
    changed(
        folder,
        '    with np.load(folder / "weights.npz")',
        '    (folder / "told.txt").write_text(f"{folder} {threads} {device}")\n'
        '    with np.load(folder / "weights.npz")',
    )
    opened(folder)
    assert (folder.root / "told.txt").read_text() == f"{folder.root} 2 cpu"


@pytest.mark.parametrize("module", ["deep/down/mine.py", "mine/__init__.py"])
def test_a_module_may_lie_deeper_and_be_a_package(folder, module):
    path = folder.root / module
    path.parent.mkdir(parents=True)
    (folder.root / "mine.py").rename(path)
    if path.name == "__init__.py":
        (path.parent / "beside.py").write_text("LETTERS = 'letters'\n")
        path.write_text(
            "from .beside import LETTERS\n" + path.read_text().replace('["letters"]', "[LETTERS]")
        )
    text = folder.file.read_text().replace("mine.py", module)
    folder.file.write_text(text)
    outputs, _ = opened(open_service(folder.root)).run(arena_of([3]), np.arange(1), np.array([3]))
    assert outputs["padded"].tolist() == [[4]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "def load(",
            "def other(",
            FACTORY + "there is no function 'load', expected one that loads the variant",
        ),
        (
            "threads: int, device: str) -> Model",
            "threads: int) -> Model",
            "cannot be called: got an unexpected keyword argument 'device', expected load(folder, threads, device)",
        ),
        ("threads: int,", "thread: int,", "missing a required argument: 'thread'"),
        (
            "        self.stages = {",
            "        self.steps = {",
            "Model, has no stages, expected stages, a dict",
        ),
        (
            "        self.stages = {",
            "        self.stages = 7, {",
            "has stages of type tuple, expected stages, a dict",
        ),
        (
            '"hear": self.hear',
            '"her": self.hear',
            "mine.py: variants.late.encoders.speech: got stage 'hear', expected one of her, read, join, listen, both",
        ),
        (
            '"hear": self.hear',
            '"hear": 7',
            "encoders.speech: stage 'hear' is int, expected something to call",
        ),
        (
            '{"read": given["letters"] @ self.w_word}',
            '{"read": given["letters"], "again": given["letters"]}',
            "encoders.word: the encoder has outputs ['read', 'again'], expected one, the embedding",
        ),
        (
            '"logits": heard[:, :2]',
            '"logits": heard[:, :1]',
            "variants.late.head: output 'logits' of a batch of 2 has shape [2, 1]",
        ),
        (
            '"padded": heard[:, 2:]',
            '"padded": heard[:, 2:].astype(float)',
            "variants.late.head: output 'padded' is FP64, expected FP32",
        ),
    ],
)
def test_what_does_not_fit_is_named(folder, old, new, message):
    if "logits" in old:
        changed(folder, 'outputs["logits"] + given["word"]', 'outputs["logits"]')
    changed(folder, old, new)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "import numpy as np",
            "raise RuntimeError('no luck')",
            "importing mine.py fails: RuntimeError: no luck",
        ),
        ("import numpy as np", "def (", "importing mine.py fails: SyntaxError"),
        (
            "    with np.load",
            "    raise SystemExit(3)\n    with np.load",
            "load() of mine.py fails: SystemExit: 3",
        ),
        (
            'folder / "weights.npz"',
            'folder / "none.npz"',
            "load() of mine.py fails: FileNotFoundError: [Errno 2] No such file",
        ),
        (
            'return {"read": given["letters"] @ self.w_word}',
            "given['letters'] /= 2",
            "stage 'word': ValueError: output array is read-only",
        ),
        (
            'return {"read": given["letters"] @ self.w_word}',
            "return given['words']",
            "stage 'word': KeyError: 'words'",
        ),
        (
            'return {"read": given["letters"] @ self.w_word}',
            "return given['letters']",
            "stage 'word': returned ndarray, expected a dict of arrays",
        ),
        (
            'return {"read": given["letters"] @ self.w_word}',
            "return {'read': [1, 2]}",
            "stage 'word': returned 'read' as list, expected a numpy array",
        ),
        (
            'return {"read": given["letters"] @ self.w_word}',
            "return {'read': self.w_word}",
            "stage 'word': returned 'read' of shape [3, 2] for 2 items, expected as many rows",
        ),
        (
            '"padded": heard[:, 2:]',
            '"other": heard[:, 2:]',
            "stage 'head': returned no 'padded', but 'logits', 'other', 'mask'",
        ),
    ],
)
def test_what_the_code_raises_is_the_variant_s_failure(folder, old, new, message):
    changed(folder, old, new)
    text = refusal(folder, WorkerError)
    assert text.startswith("variant 'late'")
    assert message in text


@pytest.mark.parametrize("raised", ["ValueError('odd frames')", "SystemExit('odd frames')"])
def test_a_stage_that_fails_on_a_batch_answers_the_next(folder, raised):
    changed(
        folder,
        '        frames = given["frames"]',
        f'        frames = given["frames"]\n        if frames.max() > 100:\n            raise {raised}',
    )
    runner = opened(folder)
    arena = arena_of([3, 3])
    arena["frames"][1] = 1000
    with pytest.raises(WorkerError, match=r"variant 'late', stage 'speech': .*: odd frames"):
        runner.run(arena, np.arange(2), np.array([3, 3]))
    runner.run(arena, np.arange(1), np.array([3]))


def test_what_a_stage_gives_beyond_the_service_s_outputs_is_left_alone(folder):
    outputs, _ = opened(folder).run(arena_of([3]), np.arange(1), np.array([3]))
    assert outputs.keys() == {"logits", "padded"}
