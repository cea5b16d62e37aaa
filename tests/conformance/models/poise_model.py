"""The same arithmetic as code of an operator's: each stage is one of the models."""

import importlib.util
from pathlib import Path
from typing import Any


class Model:
    """What poise's python runtime looks for."""

    def __init__(self, arithmetic: Any) -> None:
        names = ("sums", "types", "words", "moody")
        self.stages = {name: getattr(arithmetic, name) for name in names}
        self.stages["brief"] = lambda given: {"same": given["short"]}


def load(folder: Path, threads: int, device: str) -> Model:
    spec = importlib.util.spec_from_file_location("arithmetic", folder / "arithmetic.py")
    assert spec is not None
    assert spec.loader is not None
    arithmetic = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(arithmetic)
    return Model(arithmetic)
