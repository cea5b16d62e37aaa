"""The models of the service as an operator's own code: what README.md says, in numpy."""

from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]


class Model:
    """All stages of both layouts."""

    def __init__(self, w_speech: Any, w_word: Any) -> None:
        self.w_speech = w_speech
        self.w_word = w_word
        self.stages = {
            "hear": self.hear,
            "read": self.read,
            "join": self.join,
            "listen": lambda given: self.split(self.hear(given)["heard"]),
            "both": self.both,
        }

    def hear(self, given: Arrays) -> Arrays:
        frames = given["frames"]
        length = np.full((len(frames), 1), frames.shape[1], np.float32)
        return {"heard": np.concatenate([(frames @ self.w_speech).sum(axis=1), length], axis=1)}

    def read(self, given: Arrays) -> Arrays:
        return {"read": given["letters"] @ self.w_word}

    def join(self, given: Arrays) -> Arrays:
        outputs = self.split(given["speech"])
        return {**outputs, "logits": outputs["logits"] + given["word"], "mask": given["mask"]}

    def both(self, given: Arrays) -> Arrays:
        return self.join(
            {"speech": self.hear(given)["heard"], "word": self.read(given)["read"], "mask": None}
        )

    def split(self, heard: Any) -> Arrays:
        return {"logits": heard[:, :2], "padded": heard[:, 2:]}


def load(folder: Path, threads: int, device: str) -> Model:
    with np.load(folder / "weights.npz") as archive:
        return Model(archive["speech"], archive["word"])
