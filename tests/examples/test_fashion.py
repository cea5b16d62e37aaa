"""The family of clothing recognisers: its committed graphs, arrays and profile belong together, and are a family."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from poise.cli.check import check_service
from poise.domain.profile import latency_table
from poise.files import LabelledItems, ServiceFolder, load_labelled, open_service
from poise.files.metric import open_metric
from poise.profiling.accuracy import measure_accuracy
from poise.profiling.independence import independent_items
from poise.runtimes import open_staged

FASHION = Path(__file__).parents[2] / "examples" / "fashion"
SPLITS = ("validation", "test")
MOST_COMMITTED_BYTES = 5_000_000


@pytest.fixture(scope="module")
def folder() -> ServiceFolder:
    return open_service(FASHION)


@pytest.fixture(scope="module")
def items(folder) -> dict[str, LabelledItems]:
    return {split: load_labelled(FASHION / f"{split}.npz", folder.service) for split in SPLITS}


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fashion_prepare", FASHION / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_that_the_service_names_is_there(folder):
    checked = check_service(folder)
    assert checked.ok
    assert [variant.modality_sets for variant in checked.variants] == [("image",)] * len(
        folder.service.variants
    )


def test_the_profile_is_of_the_committed_files(folder):
    assert folder.stale_reasons(folder.load_profile()) == []


def test_it_is_a_family(folder):
    """Accuracies over at least 10 points, costs at batch 32 over at least tenfold, each with a reason to be there."""
    profile = folder.load_profile()
    assert len(profile.variants) >= 5
    accuracy = [variant.modes[0].accuracy for variant in profile.variants]
    cost_s = [latency_table(variant.stages[0].latency, "mean", threads=1)[32] for variant in profile.variants]
    assert max(accuracy) >= 0.91
    assert max(accuracy) - min(accuracy) >= 0.10
    assert max(cost_s) / min(cost_s) >= 10
    assert all(
        more > less for more, less in pairwise(accuracy)
    )  # in the file's order: the dearer, the more accurate
    assert all(more > less for more, less in pairwise(cost_s))


def test_it_is_profiled_alone_and_with_both_cores_busy(folder):
    for variant in folder.load_profile().variants:
        settings = {(point.threads, point.busy_cores) for point in variant.stages[0].latency}
        assert settings == {(1, 1), (1, 2), (2, 2)}


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_has_every_class_equally_often(items, split):
    assert np.bincount(items[split].label).tolist() == [500] * 10


def test_no_picture_is_in_two_splits(items):
    seen = [{picture.tobytes() for picture in items[split].inputs["image"]} for split in SPLITS]
    assert [len(pictures) for pictures in seen] == [5000, 5000]
    assert seen[0].isdisjoint(seen[1])


DEAR = [pytest.param(name, marks=pytest.mark.slow) for name in ("r14w32", "r14w16")]  # seconds of work


@pytest.mark.parametrize("variant", [*DEAR, "r8w16", "r8w8", "r8w4", "r8w2"])
def test_a_graph_is_as_right_as_the_profile_says(folder, items, variant):
    (got,) = measure_accuracy(
        folder.service,
        variant,
        open_staged(folder.service, variant, folder.resolve),
        items["validation"],
        open_metric(folder),
        independent=independent_items(folder, items["validation"]),
    )
    (profiled,) = folder.load_profile().variant(variant).modes
    assert got.samples == profiled.samples == 5000
    # Another kind of processor rounds otherwise, which may tip an item or two.
    assert got.accuracy == pytest.approx(profiled.accuracy, abs=3 / 5000)


def test_nothing_committed_is_large():
    for file in (*FASHION.glob("*.npz"), *FASHION.glob("models/*.onnx")):
        assert file.stat().st_size < MOST_COMMITTED_BYTES, file.name


def test_without_the_pictures_it_says_what_it_wants(prepare, tmp_path):
    with pytest.raises(SystemExit, match=r"t10k-images.*: not there; expected the files of Debian's package"):
        prepare.source(tmp_path)
    for name in prepare.FILES:
        (tmp_path / name).write_bytes(b"another")
    with pytest.raises(SystemExit, match=r"not the file expected \(SHA-256 differs\)"):
        prepare.source(tmp_path)


def test_a_machine_without_apt_is_told_to_name_a_folder(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "INSTALLED", tmp_path / "nowhere")
    monkeypatch.setattr(prepare, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(prepare.shutil, "which", lambda tool: None)
    with pytest.raises(SystemExit, match="apt-get and dpkg-deb not found: name a folder that holds"):
        prepare.source(None)


def test_what_is_drawn_is_of_every_class_and_mixed(prepare):
    label = np.repeat(np.arange(10), 20)
    drawn = prepare.draw(label, 5, np.random.default_rng(3))
    assert len(set(drawn.tolist())) == 50
    assert np.bincount(label[drawn]).tolist() == [5] * 10
    assert (np.diff(label[drawn]) < 0).any()
