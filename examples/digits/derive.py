"""Writes validation.npz and test.npz, the service's inputs, from the base pools in data/.

A pool holds clean digits, recordings and words, and says which of them make each item. This script does the
rest, with fixed seeds: the digit drifts behind a pillar in a noisy clip, the recording gets noise and loses
frames, the word gets typing errors. numpy is all it needs:

    python derive.py
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
SPLITS = {"validation": 101, "test": 202}  # the seeds of the noise

FRAMES, SIZE, PILLAR = 8, 48, 12  # clip: frames, side in pixels, width of the pillar
STEPS, COEFFICIENTS = 48, 13  # speech: frames after padding, coefficients a frame
LETTERS = 12  # word: code points after padding

# The three noise levels, chosen on the validation split.
PIXEL_NOISE = 0.55  # standard deviation, in units of the digit's contrast
SPEECH_NOISE = 2.35  # in units of each coefficient's spread over the training recordings
TYPO_RATE = 0.55  # errors a letter
LOST_FRAMES = 1 / 3  # share of speech frames that never arrive

DARK, CONTRAST = 108.0, 40.0  # a background pixel, and how much brighter ink is
COEFFICIENT_SPREAD = np.array(
    [144.2, 50.6, 38.7, 29.3, 29.9, 25.3, 19.0, 15.4, 15.5, 14.8, 14.2, 12.6, 12.5], np.float32
)


def make_clips(
    images: NDArray[np.uint8],
    rng: np.random.Generator,
    noise: float = PIXEL_NOISE,
    frames: int = FRAMES,
    size: int = SIZE,
    width: int = PILLAR,
) -> NDArray[np.uint8]:
    """Each 28x28 image drifts in a straight line over `frames` frames, behind a pillar that stands still."""
    n, side = len(images), images.shape[1]
    room = size - side
    start, end = rng.integers(0, room + 1, (2, n, 2))
    pillar = rng.integers(0, size - width + 1, n)
    clips = np.empty((n, frames, size, size), np.uint8)
    columns = np.arange(size)
    hidden = (columns >= pillar[:, None]) & (columns < pillar[:, None] + width)
    for f in range(frames):
        at = np.rint(start + (end - start) * (f / max(frames - 1, 1))).astype(int)
        scene = np.zeros((n, size, size), np.float32)
        for i, (row, column) in enumerate(at):
            scene[i, row : row + side, column : column + side] = images[i]
        scene /= 255
        scene *= ~hidden[:, None, :]
        scene += noise * rng.standard_normal(scene.shape, np.float32)
        clips[:, f] = np.clip(np.rint(DARK + CONTRAST * scene), 0, 255)
    return clips


def make_mfccs(
    recordings: list[NDArray[np.float32]], rng: np.random.Generator, noise: float = SPEECH_NOISE
) -> NDArray[np.float32]:
    """Noise on every coefficient; frames are lost, and what is left is closed up and padded with zeros."""
    mfccs = np.zeros((len(recordings), STEPS, COEFFICIENTS), np.float32)
    for i, recording in enumerate(recordings):
        kept = recording[rng.random(len(recording)) >= LOST_FRAMES]
        if not len(kept):
            kept = recording[:1]
        kept = kept[:STEPS]
        mfccs[i, : len(kept)] = kept + noise * COEFFICIENT_SPREAD * rng.standard_normal(
            kept.shape, np.float32
        )
    return mfccs


def scripts(words: list[str]) -> dict[str, list[str]]:
    """The letters in use, by writing system: a wrong key gives another letter of the same one."""
    letters: dict[str, list[str]] = {}
    for letter in sorted({letter for word in words for letter in word}):
        letters.setdefault(unicodedata.name(letter).split()[0], []).append(letter)
    return letters


def mistype(
    word: str, letters: dict[str, list[str]], rng: np.random.Generator, rate: float = TYPO_RATE
) -> str:
    """Each character is, at `rate`, replaced by a wrong one, left out, or has a wrong one before it."""
    typed: list[str] = []
    for i, letter in enumerate(word):
        if rng.random() >= rate:
            typed.append(letter)
            continue
        same = letters[unicodedata.name(letter).split()[0]]
        wrong = same[rng.integers(len(same))]
        error = rng.integers(4)
        if error == 3:
            typed += [wrong, letter]
        elif error < 2 or (not typed and i == len(word) - 1):  # a word never ends up empty
            typed.append(wrong)
    return "".join(typed)


def encode(words: list[str]) -> NDArray[np.int32]:
    """Unicode code points, padded with zeros: the service's `chars`."""
    chars = np.zeros((len(words), LETTERS), np.int32)
    for i, word in enumerate(words):
        points = [ord(letter) for letter in unicodedata.normalize("NFC", word)[:LETTERS]]
        chars[i, : len(points)] = points
    return chars


def derive(pool: dict[str, NDArray[Any]], seed: int) -> dict[str, Any]:
    """One split's inputs and labels from its pool."""
    clip_rng, speech_rng, word_rng = (np.random.default_rng([seed, k]) for k in range(3))
    recordings = np.split(pool["frames"].astype(np.float32), np.cumsum(pool["lengths"])[:-1])
    words = [str(word) for word in pool["words"]]
    letters = scripts(words)
    return {
        "clip": make_clips(pool["images"][pool["item_image"]].astype(np.uint8), clip_rng),
        "mfcc": make_mfccs([recordings[int(i)] for i in pool["item_recording"]], speech_rng),
        "chars": encode([mistype(words[int(i)], letters, word_rng) for i in pool["item_word"]]),
        "label": pool["label"].astype(np.int64),
    }


def main() -> None:
    """Write what is missing or older than its pool or this script."""
    for split, seed in SPLITS.items():
        source, target = HERE / "data" / f"{split}_pool.npz", HERE / f"{split}.npz"
        newest = max(source.stat().st_mtime, Path(__file__).stat().st_mtime)
        if target.exists() and target.stat().st_mtime >= newest:
            print(f"{target.name} is up to date")
            continue
        with np.load(source) as pool:
            arrays = derive(dict(pool), seed)
        unfinished = target.with_suffix(".tmp.npz")
        np.savez(unfinished, **arrays)
        unfinished.replace(target)
        print(f"{target.name}: {len(arrays['label'])} items")


if __name__ == "__main__":
    main()
