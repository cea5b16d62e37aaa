"""The example of co-recorded sensors: its committed graphs, arrays and profile belong together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from poise.cli.check import check_service
from poise.files import LabelledItems, ServiceFolder, load_labelled, open_service
from poise.files.metric import open_metric
from poise.profiling.accuracy import measure_accuracy
from poise.profiling.independence import independent_items
from poise.runtimes import open_staged

SENSORS = Path(__file__).parents[2] / "examples" / "sensors"
SPLITS = ("validation", "test")


@pytest.fixture(scope="module")
def folder() -> ServiceFolder:
    return open_service(SENSORS)


@pytest.fixture(scope="module")
def items(folder) -> dict[str, LabelledItems]:
    return {split: load_labelled(SENSORS / f"{split}.npz", folder.service) for split in SPLITS}


def recordings(split: str) -> list[dict]:
    return json.loads((SENSORS / f"{split}.recordings.json").read_text())


def test_all_that_the_service_names_is_there(folder):
    checked = check_service(folder)
    assert checked.ok
    assert [variant.modality_sets for variant in checked.variants] == [
        ("accelerometer", "gyroscope", "accelerometer+gyroscope")
    ] * len(folder.service.variants)


def test_the_profile_is_of_the_committed_files(folder):
    assert folder.stale_reasons(folder.load_profile()) == []


@pytest.mark.parametrize("split", SPLITS)
def test_every_item_belongs_to_a_recording_of_its_exercise(items, split):
    exercises = ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]
    expected = [exercises.index(each["exercise"]) for each in recordings(split) for _ in range(each["items"])]
    assert items[split].label.tolist() == expected


def test_nobody_is_in_two_splits(items):
    people = [{each["person"] for each in recordings(split)} for split in SPLITS]
    assert people[0].isdisjoint(people[1])
    seen = [{row.tobytes() for row in items[split].inputs["accelerometer"]} for split in SPLITS]
    assert seen[0].isdisjoint(seen[1])


def test_as_many_items_are_independent_as_there_are_recordings(folder, items):
    made = len(recordings("validation"))
    assert made == 2 * 2 * 7  # people, arms, exercises
    assert independent_items(folder, items["validation"]) == dict.fromkeys(folder.service.modalities, made)


def test_the_graphs_are_as_right_as_the_profile_says(folder, items):
    for variant in folder.load_profile().variants:
        runner = open_staged(folder.service, variant.name, folder.resolve)
        modes = measure_accuracy(
            folder.service,
            variant.name,
            runner,
            items["validation"],
            open_metric(folder),
            independent=independent_items(folder, items["validation"]),
        )
        for got, profiled in zip(modes, variant.modes, strict=True):
            assert (got.modalities, got.samples) == (profiled.modalities, profiled.samples)
            # Another kind of processor rounds otherwise, which may tip an item or two.
            assert got.accuracy == pytest.approx(profiled.accuracy, abs=3 / len(items["validation"]))


def test_two_sensors_are_righter_than_one(folder):
    for variant in folder.load_profile().variants:
        accuracy = {mode.modalities: mode.accuracy for mode in variant.modes}
        both = accuracy.pop(("accelerometer", "gyroscope"))
        assert both > max(accuracy.values())


def test_the_arrays_hold_what_a_watch_can_feel(items):
    for split in SPLITS:
        gravity = np.linalg.norm(items[split].inputs["accelerometer"].mean(axis=1), axis=1)
        assert 0.8 < np.median(gravity) < 1.1  # in units of g: still arms feel one
        assert np.isfinite(items[split].inputs["gyroscope"]).all()
