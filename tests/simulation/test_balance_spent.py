"""What the policy ``poise`` spends a class's balance on when load is above what accuracy can be bought for."""

from __future__ import annotations

from poise.domain.decoding import convert
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.domain.workload import Arrivals, Workload
from poise.simulation.simulate import simulate
from poise.workload import draw_jobs


def test_a_balance_is_not_spent_on_modes_that_save_next_to_no_time() -> None:
    """One sensor alone saves 70 µs over both, and a fifth of the accuracy; the camera costs 13 ms."""
    tensor = {"datatype": "FP32", "shape": [4]}
    modes = {"word": (0.666, 0.00003), "speech+word": (0.860, 0.0001), "clip+speech+word": (0.978, 0.0130)}
    service = convert(
        {
            "format": 1,
            "service": "three",
            "modalities": {name: {"inputs": {name: tensor}} for name in ("clip", "speech", "word")},
            "outputs": {"y": tensor},
            "variants": {"one": {"runtime": "emulated"}},
            "classes": {"normal": {"latency_slo_ms": 250, "accuracy_floor": 0.871}},
            "budget": {"cores": 1},
        },
        Service,
        "service.yaml",
    )
    profile = convert(
        {
            "format": 1,
            "service": "three",
            "variants": [
                {
                    "name": "one",
                    "modes": [
                        {"modalities": label.split("+"), "accuracy": accuracy}
                        for label, (accuracy, _) in modes.items()
                    ],
                    "stages": [
                        {
                            "name": label,
                            "modality_sets": [label.split("+")],
                            "latency": [{"batch": b, "mean_s": b * item_s} for b in (1, 32)],
                        }
                        for label, (_, item_s) in modes.items()
                    ],
                }
            ],
        },
        Profile,
        "profile.json",
    )
    workload = Workload(
        format=1, arrivals=Arrivals(process="poisson", rate_rps=441.0, duration_s=10.0), seed=1
    )
    jobs = draw_jobs(workload, classes=tuple(service.classes), index=service.modality_index)
    report = simulate(service, profile, jobs, duration_s=10.0, policy="poise", seed=1).report
    assert report.attainment == 1.0
    assert report.mean_accuracy is not None and report.mean_accuracy >= 0.871
    assert report.modality_share.get("word", 0.0) < 0.015
