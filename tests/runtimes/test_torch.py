"""The torch runtime answers as numpy does, at the bucket of the batch; skipped where there is no torch."""

from __future__ import annotations

import io
import shutil
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtimes.exporting import export_all
from tests.runtimes.lengths import SPEECH, arena_of, bucket_of, copy_lengths, logits_of

from poise.errors import ConfigError, WorkerError
from poise.runtimes import open_variant

SETS = {"late": (1, 2, 3), "whole": (1, 3)}


def test_without_torch_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    folder = copy_lengths(tmp_path / "lengths", "torch.yaml")
    with pytest.raises(ConfigError) as caught:
        open_variant(folder.service, "late", folder.resolve)
    assert str(caught.value) == (
        "variants.late.runtime: variant 'late' needs torch, which is not installed here, "
        "expected torch; run: pip install torch==2.13.0"
    )


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")


@pytest.fixture(scope="module")
def exported(torch, tmp_path_factory):
    folder = copy_lengths(tmp_path_factory.mktemp("exported") / "lengths", "torch.yaml")
    export_all(folder.root)
    return folder


@pytest.fixture(scope="module")
def runners(exported):
    return {name: open_variant(exported.service, name, exported.resolve) for name in SETS}


@pytest.mark.parametrize("variant", SETS)
@given(data=st.data())
def test_every_item_gets_its_answer_at_the_batch_s_bucket(runners, variant, data):
    item = st.tuples(st.integers(1, 16), st.sampled_from(SETS[variant]))
    items = data.draw(st.lists(item, min_size=1, max_size=8))
    arena = arena_of([length for length, _ in items])
    rows, masks = np.arange(len(items)), np.array([mask for _, mask in items], np.uint8)
    outputs, measured = runners[variant].run(arena, rows, masks)
    assert outputs.keys() == {"logits", "padded"}
    np.testing.assert_allclose(outputs["logits"], logits_of(arena, rows, masks), atol=1e-4)
    assert all(seconds > 0 for _, seconds in measured)
    if variant == "late" and (spoken := [length for length, mask in items if mask & SPEECH]):
        assert outputs["padded"].max() == bucket_of(spoken)


def test_rows_that_nobody_may_write_to_are_left_alone(runners):
    arena = arena_of([3, 4])
    before = {name: array.copy() for name, array in arena.items()}
    for array in arena.values():
        array.flags.writeable = False
    outputs, _ = runners["whole"].run(arena, np.arange(2), np.array([3, 3]))
    np.testing.assert_allclose(outputs["logits"], logits_of(arena, np.arange(2), np.array([3, 3])), atol=1e-4)
    for name, array in arena.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.fixture
def mine(exported, tmp_path):
    shutil.copytree(exported.root, tmp_path / "lengths")
    return msgspec.structs.replace(exported, file=(tmp_path / "lengths" / "service.yaml").resolve())


def refusal(folder, kind=ConfigError, **options) -> str:
    with pytest.raises(kind) as caught:
        open_variant(folder.service, "late", folder.resolve, **options)
    return str(caught.value)


def save(torch, folder, module, inputs, shapes) -> None:
    program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    torch.export.save(program, folder.root / "word.pt2")


def word(torch: Any, forward: Callable[..., Any]) -> Any:
    return type("Word", (torch.nn.Module,), {"forward": forward})()


WORD = "word.pt2: variants.late.encoders.word: "


def test_threads_are_those_of_the_variant_that_runs(torch, exported):
    two = open_variant(exported.service, "late", exported.resolve, threads=2)
    one = open_variant(exported.service, "late", exported.resolve, threads=1)
    arena = arena_of([3])
    for runner, threads in ((two, 2), (one, 1), (two, 2)):
        runner.run(arena, np.arange(1), np.array([3]))
        assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("forward", "items", "dynamic", "message"),
    [
        (lambda self, words: words * 1, 3, True, "the graph has no input 'letters' (it has 'words')"),
        (
            lambda self, letters: letters * 1,
            3,
            False,
            "input 'letters' has shape [4, 3], expected a free first",
        ),
        (lambda self, letters: letters * 1, 5, True, "input 'letters' has shape [n, 5], expected [n, 3]"),
        (
            lambda self, letters: (letters * 1, letters * 2),
            3,
            True,
            "the program returns a tuple, expected a dict",
        ),
        (
            lambda self, letters: {"a": letters * 1, "b": letters * 2},
            3,
            True,
            "the encoder has outputs ['a', 'b'], expected one, the embedding",
        ),
        (lambda self, letters: letters.sum(0), 3, True, "of a batch of 2 has shape [3], expected 2 rows"),
        (lambda self, letters: letters.add_(1), 3, True, "the program changes 'letters'"),
    ],
)
def test_a_program_that_does_not_fit_is_named(torch, mine, forward, items, dynamic, message):
    name = forward.__code__.co_varnames[1]
    shapes = {name: {0: torch.export.Dim("n", min=1, max=64)}} if dynamic else None
    save(torch, mine, word(torch, forward), (torch.zeros(4, items),), shapes)
    text = refusal(mine)
    assert text.startswith(WORD)
    assert message in text


def test_a_program_that_keeps_a_state_is_refused(torch, mine):
    module = word(torch, lambda self, letters: self.norm(letters))
    module.norm = torch.nn.BatchNorm1d(3)
    save(torch, mine, module.train(), (torch.zeros(4, 3),), {"letters": {0: torch.export.Dim("n", min=2)}})
    assert "expected one that changes nothing (exported from a module in eval mode)" in refusal(mine)


def test_another_type_is_named(torch, mine):
    shapes = {"letters": {0: torch.export.Dim("n", min=1, max=64)}}
    module = word(torch, lambda self, letters: letters * 1)
    save(torch, mine, module, (torch.zeros(4, 3, dtype=torch.float64),), shapes)
    assert refusal(mine) == WORD + "input 'letters' is FP64, expected FP32"
    save(torch, mine, module, (torch.zeros(4, 3, dtype=torch.bfloat16),), shapes)
    assert refusal(mine) == WORD + "input 'letters' is of type bfloat16, expected FP32"


def test_what_is_not_an_exported_program(torch, mine):
    torch.save({"a": torch.zeros(2)}, mine.root / "word.pt2")
    assert "not an exported program: it has no models/model.json" in refusal(mine)
    (mine.root / "word.pt2").write_bytes((mine.root / "speech.pt2").read_bytes()[:500])
    assert "not an exported program" in refusal(mine)


class Harm:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_example_inputs_that_are_pickles_are_never_loaded(torch, mine):
    path = mine.root / "word.pt2"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (examples,) = [name for name in members if name.endswith("sample_inputs/model.pt")]
    buffer = io.BytesIO()
    torch.save(Harm(), buffer)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, buffer.getvalue() if name == examples else data)
    assert "its example inputs are not plain tensors" in refusal(mine)


def test_another_device_is_not_available(exported):
    late = msgspec.structs.replace(exported.service.variants["late"], devices=("cpu", "cuda"))
    service = msgspec.structs.replace(exported.service, variants={"late": late})
    with pytest.raises(ConfigError, match="runtime torch was asked for on cuda, expected cpu"):
        open_variant(service, "late", exported.resolve, device="cuda")


def test_a_batch_beyond_what_was_exported_fails_alone(runners):
    arena = arena_of([3] * 65)
    with pytest.raises(WorkerError, match="variant 'late', stage 'speech'"):
        runners["late"].run(arena, np.arange(65), np.full(65, 3))
    runners["late"].run(arena, np.arange(64), np.full(64, 3))
