"""A service whose one variant is emulated: the example's modalities, and latencies and accuracies that are made up."""

from __future__ import annotations

from itertools import combinations

import msgspec

from poise.domain.profile import LatencyPoint, ModeProfile, Profile, StageProfile, VariantProfile
from poise.domain.service import Service, Variant

NAME = "emulated"
BATCHES = (1, 32)


def emulated(declared: Service, *, batch_s: float, item_s: float) -> tuple[Service, Profile]:
    """Return the service and its profile.

    A batch takes ``batch_s``, and ``item_s`` for each of its items and each modality of that item. One modality is
    right 90 % of the time, two 95 %, three 96.7 %. Units: seconds.
    """
    names = tuple(declared.modalities)
    sets = [chosen for size in range(1, len(names) + 1) for chosen in combinations(names, size)]
    stages = [(name, 0.0, item_s, [chosen for chosen in sets if name in chosen]) for name in names]
    stages.append(("all", batch_s, 0.0, sets))
    variant = VariantProfile(
        name=NAME,
        modes=tuple(ModeProfile(modalities=c, accuracy=1 - 0.1 / len(c), samples=1000) for c in sets),
        stages=tuple(
            StageProfile(
                name=name,
                modality_sets=tuple(users),
                latency=tuple(LatencyPoint(batch=b, mean_s=start_s + b * each_s) for b in BATCHES),
            )
            for name, start_s, each_s, users in stages
        ),
    )
    service = msgspec.structs.replace(declared, variants={NAME: Variant(runtime="emulated")}, validation=None)
    return service, Profile(format=1, service=declared.service, variants=(variant,))
