"""A whole profile, measured here in no time: that it is complete and fits its service, not how long things take."""

from __future__ import annotations

import json
import shutil

import msgspec
import pytest
from tests.tiny import TINY

from poise.domain.decoding import decode_json
from poise.domain.profile import WAY_STAGE, Profile, latency_table
from poise.errors import ConfigError, WorkerError
from poise.files import open_service
from poise.profiling import measure_profile, profiler, write_profile
from poise.profiling.footprint import measure_footprint
from poise.profiling.latency import Setting, batch_sizes, sample_inputs, settings
from poise.profiling.profiler import check_can_measure
from poise.runtimes import stages_of
from poise.runtimes.cores import usable_cores

CORES = min(2, len(usable_cores()))  # the tiny service's budget, as far as this machine has it
THREADS = [1, 2][:CORES]
SETTINGS = [(1, 1), (1, 2), (2, 2)] if CORES == 2 else [(1, 1)]


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8, 12)), (32, (1, 2, 4, 8, 16, 32))],
)
def test_batch_sizes(largest, sizes):
    assert batch_sizes(largest) == sizes


@pytest.mark.parametrize(
    ("threads", "cores", "expected"),
    [
        ((1,), 1, [(1, 1)]),
        ((1, 2), 2, [(1, 1), (1, 2), (2, 2)]),
        ((4, 1, 2), 8, [(1, 1), (1, 8), (2, 2), (2, 8), (4, 4), (4, 8)]),
        ((2,), 3, [(2, 2)]),
        ((2,), 5, [(2, 2), (2, 4)]),
        ((4,), 2, [(4, 4)]),
    ],
)
def test_each_number_of_threads_is_timed_alone_and_with_all_cores_busy(threads, cores, expected):
    assert [(s.threads, s.busy_cores) for s in settings(threads, cores)] == expected


def test_every_worker_has_cores_of_its_own():
    assert Setting(2, 6).places(range(7)) == [(5, 6), (3, 4), (1, 2)]
    assert Setting(1, 1).places((4, 5)) == [(5,)]
    assert str(Setting(1, 2)) == "1 thread, 2 cores busy"
    assert str(Setting(2, 2)) == "2 threads, 2 cores busy"


def test_a_whole_profile(tiny):
    told: list[tuple[float, float, str]] = []
    profile = measure_profile(tiny, budget_s=0.0, on_progress=lambda *progress: told.append(progress))
    write_profile(profile, tiny.root / "profile.json")
    assert tiny.load_profile() == profile
    assert tiny.stale_reasons(profile) == []
    assert profile.files == tiny.file_hashes()
    assert profile.device.cores >= 1
    assert profile.device.runtime.startswith("onnxruntime ")
    assert [variant.name for variant in profile.variants] == ["late", "whole"]
    for variant in profile.variants:
        stages = dict(stages_of(tiny.service, variant.name))
        assert [stage.name for stage in variant.stages] == [*stages, WAY_STAGE]
        labels = tuple(mode.label for mode in variant.modes)
        for stage in variant.stages:
            assert stage.labels == stages.get(stage.name, labels)
            wanted = SETTINGS if stage.name != WAY_STAGE else [(threads, 1) for threads in THREADS]
            measured = [(point.threads, point.busy_cores, point.batch) for point in stage.latency]
            assert measured == [(*setting, batch) for setting in wanted for batch in (1, 2, 4, 8)]
            assert all(point.mean_s > 0 for point in stage.latency)
            for threads in THREADS:
                assert len(latency_table(stage.latency, "p99", threads=threads)) == 9
        assert variant.load_time_s > 0
        assert variant.memory_bytes > 0
    shares = [done for done, _, _ in told]
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
    latencies = {f"latency, 1 thread, 1 core busy (1 of {len(SETTINGS)})"}
    assert {"accuracy of late", "the way to a worker"} | latencies <= {what for _, _, what in told}


def test_without_validation_data_one_mode_has_an_unknown_accuracy(tiny):
    text = tiny.file.read_text().replace("validation: validation.npz\n", "")
    before, graphs = text.split("  late:")
    _, sound = graphs.split("  whole:")
    tiny.file.write_text(
        f"{before}  whole:{sound}".replace("image+sound: ", "# ").replace("image+sound+word: ", "# ")
    )
    folder = open_service(tiny.file)
    profile = measure_profile(folder, budget_s=0.0, threads=(1,))
    (mode,) = profile.variants[0].modes
    assert (mode.label, mode.accuracy, mode.samples) == ("sound", 0.0, None)


def test_emulated_variants_keep_their_profile(tiny, rewrite):
    shutil.copy(TINY / "emulated_profile.json", tiny.root / "profile.json")
    late = tiny.file.read_text().split("  late:")[1].split("  whole:")[0]
    folder = rewrite(f"  late:{late}", "  paper: {runtime: emulated}\n")
    before = json.loads((tiny.root / "profile.json").read_text())["variants"][0]
    profile = measure_profile(folder, budget_s=0.0, threads=(1,))
    write_profile(profile, tiny.root / "profile.json")
    assert [variant.name for variant in profile.variants] == ["paper", "whole"]
    after = json.loads((tiny.root / "profile.json").read_text())["variants"][0]
    assert after["stages"] == before["stages"]


def refusal(folder, measured=("late", "whole"), threads=(1,)) -> str:
    with pytest.raises(ConfigError) as caught:
        check_can_measure(folder, measured, threads)
    return str(caught.value)


def test_emulated_variants_alone_leave_nothing_to_measure():
    with pytest.raises(ConfigError, match=r"emulated\.yaml: variants: nothing to measure"):
        measure_profile(open_service(TINY / "emulated.yaml"))


def test_a_choice_of_modes_wants_validation_data(rewrite):
    text = refusal(rewrite("validation: validation.npz\n", ""))
    assert text.startswith(
        "service.yaml: validation: no validation data, and 10 modes to choose between, expected"
    )


@pytest.mark.parametrize("threads", [(), (0,), (1, 1), (10_000,)])
def test_threads_that_this_machine_does_not_have(tiny, threads):
    assert "expected different numbers from 1 to" in refusal(tiny, threads=threads)


def test_a_child_that_fails_says_why(rewrite):
    folder = rewrite("late/sound.onnx", "odd/fixed_batch.onnx")
    with pytest.raises(WorkerError, match=r"variant 'late': odd/fixed_batch\.onnx: .* expected a free first"):
        measure_footprint(folder, "late", threads=1)


def test_inputs_to_time_with_have_the_service_s_types(tiny):
    for name, array in sample_inputs(tiny.service, None, 8).items():
        specs = {n: spec for m in tiny.service.modalities.values() for n, spec in m.inputs.items()}
        assert array.shape == (8, *specs[name].shape)
    assert sample_inputs(tiny.service, None, 8)["pixels"].dtype == "uint8"


def test_known_accuracies_are_kept_while_the_files_are_the_same(tiny):
    hashes = tiny.file_hashes() | {"late/head.onnx": "sha256:of-another"}
    known = msgspec.structs.replace(made_up_profile(), files=hashes)
    profile = measure_profile(tiny, budget_s=0.0, threads=(1,), known=known)
    assert profile.variant("whole").modes == known.variant("whole").modes
    assert profile.variant("late").modes != known.variant("late").modes
    assert profile.files == tiny.file_hashes()


def made_up_profile() -> Profile:
    return decode_json((TINY / "profile.json").read_bytes(), Profile, "profile.json")


@pytest.mark.parametrize(
    ("threads", "expected_s"), [((1,), 60.0 + 30.0 * (CORES - 1)), (None, 60.0 + 30.0 * (len(SETTINGS) - 1))]
)
def test_the_budget_grows_with_what_there_is_to_measure(tiny, monkeypatch, threads, expected_s):
    class Told(Exception):  # noqa: N818
        pass

    def tell(budget_s: float, *_: object) -> None:
        raise Told(budget_s)

    monkeypatch.setattr(profiler, "_Progress", tell)
    with pytest.raises(Told, match=str(expected_s)):
        measure_profile(tiny, threads=threads)
