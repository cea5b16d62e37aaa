"""``poise allocate`` as a user types it, on an emulated family."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SERVICE = """
format: 1
service: family
modalities: {image: {inputs: {x: {datatype: FP32, shape: [2]}}}}
outputs: {y: {datatype: FP32, shape: [2]}}
variants: {small: {runtime: emulated}, large: {runtime: emulated}}
classes: {normal: {latency_slo_ms: 750}}
budget: {cores: 4}
profile: profile.json
"""


@pytest.fixture
def family(tmp_path: Path) -> Path:
    def variant(name: str, accuracy: float, item_s: float, load_time_s: float) -> dict[str, object]:
        stage = {"name": "whole", "modality_sets": [["image"]], "latency": [{"batch": 1, "mean_s": item_s}]}
        return {
            "name": name,
            "load_time_s": load_time_s,
            "modes": [{"modalities": ["image"], "accuracy": accuracy}],
            "stages": [stage],
            "capacity": [{"cores": n, "rps": 0.8 * n / item_s, "slo_s": 0.75} for n in (1, 2, 4)],
        }

    (tmp_path / "service.yaml").write_text(SERVICE)
    profile = {
        "format": 1,
        "service": "family",
        "variants": [variant("small", 0.7, 0.01, 2.0), variant("large", 0.8, 0.05, 5.0)],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    return tmp_path


def poise(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "poise.cli.main", "allocate", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def allocated(*words: str) -> dict[str, object]:
    done = poise(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_little_load_goes_to_the_accurate_variant_and_much_to_the_small_one(family: Path) -> None:
    little = allocated(str(family), "--load", "10")
    assert little["workers"] == [
        {
            "variants": ["large"],
            "count": 1,
            "cell": 0,
            "threads": 1,
            "device": "cpu",
            "batch_cap_s": None,
            "service": "",
        }
    ]
    assert little["shares"] == {"normal": {"large": 10.0}}
    assert little["terms"] == {"accuracy": 0.8, "resource": 0.25, "loading": 1.0}
    assert little["objective"] == pytest.approx(0.8 - 0.05 * 0.25 - 0.001)
    assert little["status"] == "optimal"
    much = allocated(str(family), "--load", "400")
    assert much["workers"] == [
        {
            "variants": ["small"],
            "count": 4,
            "cell": 0,
            "threads": 1,
            "device": "cpu",
            "batch_cap_s": None,
            "service": "",
        }
    ]
    assert much["shed"] == {"normal": pytest.approx(400 - 256)}  # 0.8 · 0.8 · 4 / 0.01


def test_what_runs_now_need_not_be_loaded(family: Path, tmp_path: Path) -> None:
    first = allocated(str(family), "--load", "10")
    before = tmp_path / "now.json"
    before.write_text(json.dumps(first))
    again = allocated(str(family), "--load", "10", "--current", str(before))
    assert again["workers"] == first["workers"]
    assert again["terms"]["loading"] == 0.0  # type: ignore[index]


def test_auto_finds_the_fewest_cores(family: Path) -> None:
    found = allocated(str(family), "--load", "100", "--cores", "auto")
    assert sum(each["count"] for each in found["workers"]) == 2  # type: ignore[attr-defined]
    assert found["shed"] == {"normal": 0.0}
    assert allocated(str(family), "--load", "100", "--cores", "1")["shed"]["normal"] > 0  # type: ignore[index]


def test_no_load_is_an_answer(family: Path) -> None:
    found = allocated(str(family), "--load", "0")
    assert found["terms"]["accuracy"] == 0.8  # type: ignore[index]
    assert found["shed"] == {"normal": 0.0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--load", "nan"), "--load"),
        (("--load", "-1"), "--load"),
        (("--load", "5", "--cores", "0"), "expected auto, or a whole number"),
        (("--load", "5", "--cores", "many"), "expected auto, or a whole number"),
        (("--load", "5", "--adapter", "magic"), "expected infadapter"),
        (("--load", "5", "--current", "/nowhere.json"), "/nowhere.json"),
        (("--load", "900000000", "--cores", "auto"), "do not carry"),
    ],
)
def test_bad_words_are_told_what_was_expected(family: Path, words: tuple[str, ...], said: str) -> None:
    done = poise(str(family), *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_current_allocation_of_another_service_is_refused(family: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "now.json"
    wrong.write_text(json.dumps({"workers": [{"variants": ["huge"], "count": 1}]}))
    done = poise(str(family), "--load", "5", "--current", str(wrong))
    assert done.returncode == 2
    assert "huge" in done.stderr
    wrong.write_text(json.dumps({"workers": [{"variants": ["small"], "count": 0}]}))
    assert "count" in poise(str(family), "--load", "5", "--current", str(wrong)).stderr


def spare(family: Path) -> Path:
    """The family with room for a joint allocation: a capacity table is all that it needs."""
    text = SERVICE.replace("budget: {cores: 4}", "budget: {cores: 4, memory: 1GiB}\nadapter: {policy: poise}")
    (family / "service.yaml").write_text(text)
    return family


def test_the_service_says_which_policy(family: Path) -> None:
    found = allocated(str(spare(family)), "--load", "20")
    assert found["workers"][0]["variants"] == ["small", "large"]  # type: ignore[index]
    assert found["shed"] == {"normal": 0.0}
    assert allocated(str(family), "--load", "20", "--adapter", "infadapter")["workers"] != found["workers"]


def test_the_joint_allocation_as_json_and_for_people(family: Path, tmp_path: Path) -> None:
    words = (str(family), "--adapter", "poise")
    first = allocated(*words, "--load", "100")
    assert list(first) == ["workers", "objective", "terms", "shares", "shed", "solve_s", "status", "gap"]
    assert sum(first["shares"]["normal"].values()) == pytest.approx(100.0)  # type: ignore[index]
    assert (family / "profile.json.rates").is_file()
    now = tmp_path / "now.json"
    now.write_text(json.dumps(first))
    again = allocated(*words, "--load", "100", "--current", str(now))
    assert again["workers"] == first["workers"]
    assert again["terms"]["loading"] == 0.0  # type: ignore[index]
    said = poise(*words, "--load", "100").stdout
    assert "small, large" in said
    assert "optimal" in said


def test_the_joint_allocation_on_the_fewest_cores(family: Path) -> None:
    words = (str(family), "--adapter", "poise", "--load", "200")
    auto = allocated(*words, "--cores", "auto")
    cores = sum(each["count"] * each["threads"] for each in auto["workers"])  # type: ignore[attr-defined]
    assert auto["shed"] == {"normal": 0.0}
    assert allocated(*words, "--cores", str(cores))["shed"] == {"normal": 0.0}
    assert allocated(*words, "--cores", str(cores - 1))["shed"]["normal"] > 0  # type: ignore[index]


def test_several_classes_and_services(family: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    text = SERVICE.replace("service: family", "service: other").replace(
        "classes: {normal: {latency_slo_ms: 750}}",
        "classes: {fast: {latency_slo_ms: 750}, slow: {latency_slo_ms: 1500}}",
    )
    (other / "service.yaml").write_text(text)
    profile = json.loads((family / "profile.json").read_text()) | {"service": "other"}
    (other / "profile.json").write_text(json.dumps(profile))
    loads = ("--load", "fast=20", "--load", "slow=30")
    assert allocated(str(other), *loads, "--adapter", "poise")["shed"] == {"fast": 0.0, "slow": 0.0}
    both = allocated(
        str(family),
        str(other),
        *("--load", "family/normal=20", "--load", "other/fast=20", "--adapter", "poise"),
    )
    assert both["shed"] == {"family/normal": 0.0, "other/fast": 0.0}
    assert {each["service"] for each in both["workers"]} == {"family", "other"}  # type: ignore[attr-defined]


def test_what_nothing_can_answer_is_said(family: Path) -> None:
    text = SERVICE.replace("latency_slo_ms: 750", "latency_slo_ms: 1")
    (family / "service.yaml").write_text(text)
    done = poise(str(family), "--load", "5", "--adapter", "poise")
    assert done.returncode == 0, done.stderr
    assert "no worker that fits the budget answers it" in done.stdout
    assert allocated(str(family), "--load", "5", "--adapter", "poise")["shed"] == {"normal": 5.0}
    auto = poise(str(family), "--load", "5", "--adapter", "poise", "--cores", "auto")
    assert auto.returncode == 2
    assert "do not carry" in auto.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--load", "hard=5"), "expected one of ['normal']"),
        (("--load", "normal:sound=5"), "expected some of ['image']"),
        (("--load", "nobody/normal=5"), "expected one of ['family']"),
        (("--load", "5", "--load", "normal=6"), "each class once"),
        (("--load", "normal="), "--load"),
        (("--load", "inf"), "--load"),
        (("--load", "1e10"), "--load"),
        (("--load", "5", "--cores", "5000"), "expected auto, or a whole number"),
    ],
)
def test_bad_loads_are_told_what_was_expected(family: Path, words: tuple[str, ...], said: str) -> None:
    done = poise(str(family), *words, "--adapter", "poise")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_infadapter_knows_one_class_of_one_service(family: Path) -> None:
    assert "only" in poise(str(family), "--load", "normal:image=3").stderr
    two = poise(str(family), str(family), "--load", "5")
    assert two.returncode == 2
    assert "each name once" in two.stderr
