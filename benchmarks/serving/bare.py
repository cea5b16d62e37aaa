"""The physical limit: ONNX Runtime in a loop, driven by the same arrivals, in one process, without a network.

Between batches it looks at who has arrived, and runs the largest batch whose members all still make their deadlines,
the earliest first; who cannot be in time is dropped. It knows what each batch size takes alone, and corrects that by
what the last batches took.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.load.health import spread

from .cores import cores_used
from .engine import Engine
from .seen import LoadSeen, LoadSpec, arrivals_of

MARGIN, MEMORY = 1.05, 0.1
"""Spare time for a batch, and the weight of the last one in what batches are expected to take."""


def run(spec: LoadSpec) -> LoadSeen:
    """Run the load of a spec."""
    engine = Engine(Path(spec.model))
    with np.load(spec.reference) as arrays:
        items, labels = arrays["items"], arrays["logits"].argmax(axis=1)
    arrivals, contents = arrivals_of(spec)
    engine.warm_up(len(spec.service_s))
    done_s, batches, wrong = np.full(len(arrivals), np.inf), 0, 0
    waiting: list[int] = []
    at, slower = 0, 1.0
    alone_s = np.asarray(spec.service_s)
    before, start_s = cores_used(0), time.perf_counter()
    cpu_before_s = time.process_time()
    while at < len(arrivals) or waiting:
        now_s = time.perf_counter() - start_s
        if not waiting and arrivals[at] > now_s:
            time.sleep(arrivals[at] - now_s)
            now_s = time.perf_counter() - start_s
        until = int(np.searchsorted(arrivals, now_s, "right"))
        waiting.extend(range(at, until))
        at = until
        chosen = choose(arrivals[waiting] + spec.slo_s - now_s, MARGIN * slower * alone_s)
        if not chosen:
            waiting = []
            continue
        members = [waiting[place] for place in chosen]
        waiting = waiting[chosen[-1] + 1 :]
        answers = engine.run(items[contents[members]])
        ended_s = time.perf_counter() - start_s
        done_s[members] = ended_s
        slower += MEMORY * ((ended_s - now_s) / alone_s[len(members) - 1] - slower)
        wrong += int((answers.argmax(axis=1) != labels[contents[members]]).sum())
        batches += 1
    wall_s, cpu_s = time.perf_counter() - start_s, time.process_time() - cpu_before_s
    used = cores_used(0) - before
    taken_s = done_s - arrivals
    answered = np.isfinite(taken_s)
    good = int((taken_s <= spec.slo_s).sum()) - wrong
    times = spread(taken_s[answered].tolist())
    return LoadSeen(
        jobs=len(arrivals),
        good=good,
        late=int(answered.sum()) - good - wrong,
        wrong=wrong,
        errors={"dropped": int((~answered).sum())},
        latency_s=times,
        from_sent_s=times,
        server_cores=cpu_s / wall_s,
        others_cores=max(0.0, used.machine_s - cpu_s) / wall_s,
        mean_batch=int(answered.sum()) / batches,
    )


def choose(left_s: NDArray[np.float64], service_s: NDArray[np.float64]) -> range:
    """Return which of the waiting to run, given the time left to each, in rising order.

    Those with too little time left for the batch are the first; the batch is the next ones.
    """
    for size in range(min(len(left_s), len(service_s)), 0, -1):
        first = int(np.searchsorted(left_s, service_s[size - 1]))
        if len(left_s) - first >= size:
            return range(first, first + size)
    return range(0)


if __name__ == "__main__":
    found = run(msgspec.json.decode(sys.stdin.buffer.read(), type=LoadSpec))
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
