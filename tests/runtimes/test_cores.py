from pathlib import Path

import pytest

from poise.runtimes.cores import cpu_quota, place_workers, usable_cores


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_quota_of_version_2_is_the_smallest_up_to_the_root(tmp_path):
    write(tmp_path / "a/b/cpu.max", "400000 100000\n")
    write(tmp_path / "a/cpu.max", "150000 100000\n")
    write(tmp_path / "cpu.max", "max 100000\n")
    assert cpu_quota("0::/a/b\n", tmp_path) == 1.5


def test_quota_of_version_1(tmp_path):
    write(tmp_path / "cpu,cpuacct/job/cpu.cfs_quota_us", "200000\n")
    write(tmp_path / "cpu,cpuacct/job/cpu.cfs_period_us", "100000\n")
    membership = "5:memory:/job\n4:cpu,cpuacct:/job\n0::/\n"
    assert cpu_quota(membership, tmp_path) == 2.0


@pytest.mark.parametrize("text", ["", "max 100000", "nonsense", "1 0", "x y"])
def test_no_quota(tmp_path, text):
    write(tmp_path / "cpu.max", text)
    assert cpu_quota("0::/\n", tmp_path) is None


def test_unlimited_quota_of_version_1(tmp_path):
    write(tmp_path / "cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "cpu/cpu.cfs_period_us", "100000\n")
    assert cpu_quota("1:cpu:/\n", tmp_path) is None


def test_there_is_always_a_core():
    assert usable_cores()


@pytest.mark.parametrize(
    ("threads", "cores", "placed"),
    [
        ([1], [0, 1, 2, 3], [(3,)]),
        ([1, 2], [0, 1, 2, 3], [(3,), (1, 2)]),
        ([1, 1], [0, 1], [(1,), (0,)]),
        ([1, 1, 1], [4, 5], [(4, 5)] * 3),
        ([4], [0, 1], [(0, 1)]),
    ],
)
def test_workers_take_the_last_cores(threads, cores, placed):
    assert place_workers(threads, cores) == placed
