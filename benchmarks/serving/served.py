"""The model made ready: its file, items with their reference answers, what batches take, a service folder for poise."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
from suite.bench import Bench, link_or_copy, poise_command, run

from .cells import Cells
from .engine import Engine
from .pinned import on_server_core, python
from .wires import INPUT

HERE = Path(__file__).resolve().parent
ITEMS, SEED = 256, 7
MAX_BATCH = 32
SLO_FACTOR = 20
SERVICE = """\
# A transformer on short inputs with random weights: what servers are compared on.
format: 1
service: tokens
modalities:
  tokens: {{inputs: {{tokens: {{datatype: FP32, shape: {shape}}}}}}}
outputs: {{logits: {{datatype: FP32, shape: [10]}}}}
variants:
  only: {{runtime: onnx, graphs: {{tokens: model.onnx}}}}
classes:
  interactive: {{latency_slo_ms: {slo_ms:g}, accuracy_floor: 0.0}}
scheduler: {{max_batch: {max_batch}}}
budget: {{cores: 1}}
metric: top1
validation: validation.npz
test: test.npz
profile: profile.json
"""


class Served(msgspec.Struct, frozen=True):
    """The model, ready to be served. Units: seconds; ``service_s``: what a batch of 1, 2, … takes alone."""

    model: Path
    reference: Path
    echo_reference: Path
    service: Path
    shape: tuple[int, ...]
    slo_s: float
    service_s: tuple[float, ...]


def served(bench: Bench, cells: Cells, folder: Path) -> Served:
    """Make what is not there yet; time batches and profile once for a run."""
    model = _model(bench, folder)
    reference, echo_reference, shape = _references(model, folder)
    runs = int(bench.options.pick(15, 3))
    service_s = cells.once(
        f"curve {_hash(model)} {runs}",
        tuple[float, ...],
        lambda: msgspec.json.decode(
            run(
                on_server_core(*python("serving.curve", str(model), str(MAX_BATCH), str(runs))),
                cwd=HERE.parent,
            ),
            type=tuple[float, ...],
        ),
    )
    slo_s = round(SLO_FACTOR * service_s[0], 3)
    bench.say(
        f"a batch of 1 takes {service_s[0] * 1e3:.2f} ms, of {MAX_BATCH} {service_s[-1] * 1e3:.1f} ms; "
        f"SLO {slo_s * 1e3:g} ms"
    )
    made = Served(model, reference, echo_reference, folder / "tokens", shape, slo_s, service_s)
    _service(made)
    budget_s = bench.options.pick(40, 12)
    cells.once(f"profile {slo_s} {budget_s}", bool, lambda: _profile(bench, made, budget_s))
    return made


def _model(bench: Bench, folder: Path) -> Path:
    """Make the model, unless it was made by this very code."""
    folder.mkdir(parents=True, exist_ok=True)
    model, mark = folder / "model.onnx", folder / "model.made"
    code = _hash(HERE / "make_model.py") + _hash(HERE / "peers" / "model.lock")
    if not model.is_file() or not mark.is_file() or mark.read_text() != code:
        bench.say("making the model")
        run([str(HERE / "peers" / "model.sh"), str(model)])
        mark.write_text(code)
    return model


def _references(model: Path, folder: Path) -> tuple[Path, Path, tuple[int, ...]]:
    """Write items, and what the model answers to each alone; and the same for an echo of the last numbers."""
    engine = Engine(model)
    items = np.random.default_rng(SEED).normal(size=(ITEMS, *engine.shape)).astype(np.float32)
    logits = np.concatenate([engine.run(item[None]) for item in items])
    reference, echo_reference = folder / "reference.npz", folder / "echo.npz"
    np.savez(reference, items=items, logits=logits)
    np.savez(echo_reference, items=items, logits=items.reshape(ITEMS, -1)[:, -logits.shape[1] :])
    for split in ("validation", "test"):
        (folder / "tokens").mkdir(exist_ok=True)
        np.savez(folder / "tokens" / f"{split}.npz", **{INPUT: items, "label": logits.argmax(axis=1)})
    return reference, echo_reference, engine.shape


def _service(made: Served) -> None:
    """Write the service folder, but for its profile."""
    made.service.mkdir(exist_ok=True)
    if not (made.service / "model.onnx").exists() or not (made.service / "model.onnx").samefile(made.model):
        (made.service / "model.onnx").unlink(missing_ok=True)
        link_or_copy(made.model, made.service / "model.onnx")
    text = SERVICE.format(shape=list(made.shape), slo_ms=made.slo_s * 1e3, max_batch=MAX_BATCH)
    (made.service / "service.yaml").write_text(text)


def _profile(bench: Bench, made: Served, budget_s: float) -> bool:
    bench.say(f"profiling, about {budget_s:g} s")
    run(on_server_core(*poise_command("profile", str(made.service), "--budget-s", str(budget_s), "--fresh")))
    return True


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
