"""``poise simulate`` as a user calls it, and the flags of a workload."""

import json
import lzma
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from poise.cli.simulate import simulate
from poise.cli.workload_flags import WorkloadFlags, best_latency, open_flags
from poise.errors import ConfigError

SERVICE = str(Path(__file__).parent.parent / "data" / "tiny" / "emulated.yaml")


@pytest.fixture
def run():
    """Runs the command and returns its result; a PoiseError comes through."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(simulate)

    def invoke(*arguments: str):
        result = CliRunner().invoke(app, list(arguments))
        if isinstance(result.exception, Exception):
            raise result.exception
        return result

    return invoke


def report_of(result) -> dict:
    return json.loads(result.stdout)


def test_the_report_has_its_stable_fields(run):
    result = run(SERVICE, "--rate", "80", "--duration", "5", "--policy", "edf", "--seed", "4", "--json")
    report = report_of(result)
    assert {
        "jobs",
        "items",
        "attainment",
        "goodput_rps",
        "effective_accuracy",
        "mean_accuracy",
    } <= report.keys()
    assert {"refused", "late", "modality_share", "variant_share", "per_class"} <= report.keys()
    assert {"p50", "p95", "p99"} <= report["latency_s"].keys()
    assert report["decisions"].keys() == {"count", "p50_s", "p99_s", "total_s"}
    assert (report["policy"], report["seed"], report["duration_s"]) == ("edf", 4, 5.0)
    assert report["load"] == report["jobs"] / 5
    assert report["jobs"] == pytest.approx(400, abs=100)


def test_the_same_seed_gives_the_same_report(run):
    def figures(seed: str) -> dict:
        report = report_of(run(SERVICE, "--rate", "150", "--duration", "3", "--seed", seed, "--json"))
        del report["decisions"]  # real time
        return report

    assert figures("1") == figures("1")
    assert figures("1") != figures("2")


def test_faults_show(run):
    common = (SERVICE, "--rate", "100", "--duration", "4", "--json")
    whole = report_of(run(*common))
    hurt = report_of(
        run(*common, "--lose-worker", "0:1:1", "--slow-worker", "1:2:30", "--profile-error", "1.5")
    )
    assert hurt["jobs"] == whole["jobs"]
    assert hurt["attainment"] < whole["attainment"]
    busy = report_of(run(*common, "--front-end-us", "20000"))
    assert busy["attainment"] < whole["attainment"]


def test_a_deadline_longer_than_the_slo_is_cut_with_a_warning(run):
    result = run(SERVICE, "--rate", "20", "--duration", "2", "--deadline-ms", "5000", "--json")
    report = report_of(result)
    assert f"{report['jobs']} of {report['jobs']} deadlines are longer" in result.stderr
    assert report["per_class"]["interactive"]["deadline_s"] == pytest.approx(0.1)


def test_people_get_a_table(run):
    result = run(SERVICE, "--rate", "50", "--duration", "2")
    assert "attainment" in result.stdout
    assert "decisions on this machine" in result.stdout


def test_a_recorded_simulation_replays_and_a_tampered_one_does_not(run, tmp_path):
    log = tmp_path / "log.jsonl"
    run(SERVICE, "--rate", "80", "--duration", "3", "--record", str(log), "--lose-worker", "0:1:1", "--json")
    result = run("--replay", str(log))
    assert result.exit_code == 0
    assert "led to the recorded commands" in result.stdout
    lines = log.read_bytes().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if b'"expected_s":0' in line)
    lines[at] = lines[at].replace(b'"expected_s":0', b'"expected_s":1', 1)
    log.write_bytes(b"".join(lines) + b'{"event": {"type": "Wo')
    result = run("--replay", str(log), "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["same"], report["truncated_line"]) == (False, len(lines) + 1)
    assert [difference["line"] for difference in report["report"]["differing"]] == [at + 1]
    assert f"line {at + 1}: " in result.stderr
    assert "recorded:" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "SERVICE: no service was given"),
        ((SERVICE,), "nothing says when jobs arrive"),
        ((SERVICE, "--rate", "1", "--slow-worker", "0:3"), "--slow-worker: got '0:3'"),
        ((SERVICE, "--rate", "1", "--slow-worker", "0:3:0"), "--slow-worker: got factor 0.0"),
        ((SERVICE, "--rate", "1", "--lose-worker", "x:3"), "--lose-worker: got 'x:3'"),
        ((SERVICE, "--rate", "1", "--lose-worker", "5:3"), "there is no worker 5"),
        ((SERVICE, "--rate", "1", "--profile-error", "-1"), "--profile-error: got profile_error -1.0"),
        ((SERVICE, "--rate", "1", "--policy", "luck"), "unknown policy 'luck'"),
        ((SERVICE, "--rate", "1", "--class", "gold"), "the service has no 'gold'"),
        (("--replay", "nowhere.jsonl"), "nowhere.jsonl: cannot be read"),
    ],
)
def test_what_cannot_be_used_is_named(run, arguments, message):
    with pytest.raises(ConfigError) as caught:
        run(*arguments)
    assert message in str(caught.value)


def test_flags_win_over_the_file(tmp_path):
    file = tmp_path / "workload.yaml"
    file.write_text(
        "format: 1\narrivals: {process: gamma, rate_rps: 10, cv: 3, duration_s: 7}\n"
        "classes: {a: 1}\nitems: {dist: normal, mean: 4, sd: 2}\nfloor: {uniform: [0.1, 0.2], per: job}\nseed: 5\n"
    )
    workload = open_flags(
        WorkloadFlags(workload=file, rate=20.0, items_sd=1.0, floor="0.5", class_share=["a=3", "b"], seed=6)
    ).workload
    assert (workload.arrivals.process, workload.arrivals.rate_rps, workload.arrivals.cv) == (
        "gamma",
        20.0,
        3.0,
    )
    assert (workload.items.dist, workload.items.mean, workload.items.sd) == ("normal", 4.0, 1.0)
    assert workload.floor is not None
    assert (workload.floor.uniform, workload.floor.per) == ((0.5, 0.5), "job")
    assert (workload.classes, workload.seed) == ({"a": 3.0, "b": 1.0}, 6)
    untouched = open_flags(WorkloadFlags(workload=file)).workload
    assert (untouched.arrivals.rate_rps, untouched.seed) == (10.0, 5)


def test_a_trace_replaces_a_process_and_the_other_way_round(tmp_path):
    (tmp_path / "trace.txt.xz").write_bytes(lzma.compress(b"3\n4\n"))
    (tmp_path / "file.yaml").write_text("format: 1\narrivals: {trace: trace.txt.xz, scale: 2}\n")
    file = tmp_path / "file.yaml"
    opened = open_flags(WorkloadFlags(workload=file))
    assert (opened.trace_text, opened.duration_s, opened.workload.arrivals.scale) == ("3\n4\n", 2.0, 2.0)
    rate = open_flags(WorkloadFlags(workload=file, rate=5.0))
    assert (rate.trace_text, rate.workload.arrivals.process) == (None, "poisson")
    (tmp_path / "other.txt").write_text("9\n")
    other = open_flags(WorkloadFlags(workload=file, trace=tmp_path / "other.txt"))
    assert other.trace_text == "9\n"


def test_a_trace_of_a_file_may_not_leave_its_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside.txt").write_text("3\n")
    file = tmp_path / "inside" / "file.yaml"
    file.write_text("format: 1\narrivals: {trace: ../outside.txt}\n")
    with pytest.raises(ConfigError, match="expected a path inside the file's folder"):
        open_flags(WorkloadFlags(workload=file))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (WorkloadFlags(rate=1.0, floor="a:b"), "--floor: got 'a:b'"),
        (WorkloadFlags(rate=1.0, missing=["x=much"]), "--missing: got 'x=much'"),
        (WorkloadFlags(rate=1.0, missing=["x=0", "x=1"]), "--missing: 'x' stands twice"),
        (WorkloadFlags(rate=1.0, floor_per="job"), "floor"),
        (WorkloadFlags(rate=1.0, items_max=0), "items"),
        (WorkloadFlags(rate=-1.0), "rate_rps"),
        (WorkloadFlags(trace=Path("nowhere.txt")), "nowhere.txt: the trace cannot be read"),
    ],
)
def test_a_flag_that_cannot_be_used_is_named(flags, message):
    with pytest.raises(ConfigError) as caught:
        open_flags(flags)
    assert message in str(caught.value)


def test_fifty_items_are_fifty(tmp_path):
    assert open_flags(WorkloadFlags(rate=1.0, items=50.0)).workload.items.max == 50


def test_the_best_latency_is_that_of_the_most_accurate_mode_in_batches(emulated):
    latency_s = best_latency(*emulated(spread=0, scheduler={"max_batch": 8}))
    head_and_way = 0.0005 + 0.0001

    def both_s(items: int) -> float:
        more = items - 1
        return 0.009 + 0.006 * more + 0.003 + 0.0015 * more + head_and_way + 0.00011 * more

    assert latency_s(1) == pytest.approx(both_s(1))
    assert latency_s(8) == pytest.approx(both_s(8))
    assert latency_s(19) == pytest.approx(2 * both_s(8) + both_s(3))
