"""Fetches the recordings and writes validation.npz and test.npz, the service's inputs, and the training pool.

A watch on the wrist records accelerometer and gyroscope at 50 Hz while a person repeats one exercise some twenty
times. A recording is one (person, arm, exercise); windows of two seconds are cut from it back to back, and what
is left at its end is dropped. Nothing is added: an item is as the watch recorded it.

**Split by person, and by pair.** People seem to have trained in pairs, at one rhythm: within each of five pairs the
lengths of the two's recordings differ by 2 to 6 % on average, those of any other two people by 10 % and more, and
everyone's readings correlate most with those of the other in the pair. So the two of a pair are never in
different splits. In order of their lowest number, the first three pairs are for training, the fourth for
validation, the fifth for the test.

    python prepare.py
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[1]))
from shared.packages import fetch, pip_download

HERE = Path(__file__).resolve().parent
CACHE = HERE / "cache"
WHEEL = "seglearn-1.2.5-py3-none-any.whl"
SHA256 = "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd"
PEOPLE = {"training": (1, 2, 3, 4, 5, 6), "validation": (7, 10), "test": (8, 9)}
WINDOW = 100  # readings in an item: two seconds
EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
AXES = ["ax", "ay", "az", "wx", "wy", "wz"]


def recordings() -> list[tuple[int, int, int, NDArray[np.float32]]]:
    """(person, arm, exercise, readings [t, 6]) of each of the 140 recordings, in that order."""
    wheel = fetch(CACHE, WHEEL, pip_download("seglearn==1.2.5"), SHA256)
    with zipfile.ZipFile(wheel) as package:
        stored = package.read("seglearn/data/watch_dataset.npy")
    data = np.load(io.BytesIO(stored), allow_pickle=True).item()  # a pickle: hence the hash
    assert data["X_labels"] == AXES and tuple(data["y_labels"]) == EXERCISES
    columns = zip(data["subject"], data["side"], data["y"], data["X"], strict=True)
    found = [(int(who), int(arm), int(y), np.asarray(x, np.float32)) for who, arm, y, x in columns]
    return sorted(found, key=lambda recording: recording[:3])


def windows(readings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Back to back, [n, WINDOW, 6]; no reading is in two of them."""
    n = len(readings) // WINDOW
    return readings[: n * WINDOW].reshape(n, WINDOW, len(AXES))


def main() -> None:
    """Write the arrays of both held-out splits, what is independent in them, and the training pool."""
    every = recordings()
    for split, people in PEOPLE.items():
        mine = [recording for recording in every if recording[0] in people]
        if split == "training":
            np.savez(
                CACHE / "training_pool.npz",
                readings=np.concatenate([readings for *_, readings in mine]),
                lengths=np.array([len(readings) for *_, readings in mine]),
                label=np.array([exercise for _, _, exercise, _ in mine]),
            )
            print(f"{split}: {len(people)} people, {len(mine)} recordings")
            continue
        cut = [windows(readings) for *_, readings in mine]
        items = np.concatenate(cut)
        np.savez_compressed(
            HERE / f"{split}.npz",
            accelerometer=items[..., :3],
            gyroscope=items[..., 3:],
            label=np.repeat([exercise for _, _, exercise, _ in mine], [len(part) for part in cut]),
        )
        independent = dict.fromkeys(("accelerometer", "gyroscope"), len(mine))
        (HERE / f"{split}.independent.json").write_text(json.dumps(independent) + "\n")
        lines = ",\n".join(
            " " + json.dumps({"person": who, "arm": arm, "exercise": EXERCISES[y], "items": len(part)})
            for (who, arm, y, _), part in zip(mine, cut, strict=True)
        )
        (HERE / f"{split}.recordings.json").write_text(f"[\n{lines}\n]\n")
        print(f"{split}: {len(people)} people, {len(mine)} recordings, {len(items)} items")


if __name__ == "__main__":
    main()
