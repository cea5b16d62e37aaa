"""What memory is left, in a cgroup and without one."""

from pathlib import Path

import pytest

from poise.runtimes.memory import cgroup_memory_left_bytes, memory_left_bytes


def group(mount: Path, path: str, **files: str) -> None:
    folder = mount / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text)


def test_the_least_of_all_groups_above_counts(tmp_path):
    group(tmp_path, "a", max="1000\n", current="900\n", stat="anon 1\n")
    group(tmp_path, "a/b", max="5000\n", current="100\n", stat="anon 1\n")
    assert cgroup_memory_left_bytes("0::/a/b\n", tmp_path) == 100


def test_the_page_cache_counts_as_left(tmp_path):
    group(tmp_path, "a", max="1000", current="900", stat="inactive_file 300\nactive_file 50\nanon 500\n")
    assert cgroup_memory_left_bytes("0::/a\n", tmp_path) == 450


@pytest.mark.parametrize("membership", ["", "0::/a\n", "4:memory:/a\n"])
def test_there_may_be_no_limit(tmp_path, membership):
    group(tmp_path, "a", max="max\n", current="900\n")
    assert cgroup_memory_left_bytes(membership, tmp_path) is None


def test_a_group_over_its_limit_has_nothing_left(tmp_path):
    group(tmp_path, "a", max="100", current="900", stat="")
    assert cgroup_memory_left_bytes("0::/a\n", tmp_path) == 0


def test_this_process_has_some_left():
    assert memory_left_bytes() > 0
