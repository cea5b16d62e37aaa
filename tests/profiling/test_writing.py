"""A reader finds the old profile or the new one, and never half of either."""

from __future__ import annotations

import errno
import os

import pytest
from tests.tiny import TINY

from poise.domain.decoding import decode_json
from poise.domain.profile import Profile
from poise.errors import ConfigError
from poise.profiling import encode_profile, write_profile


@pytest.fixture(scope="module")
def profile():
    return decode_json((TINY / "profile.json").read_bytes(), Profile, "profile.json")


def test_what_is_written_is_read_back(tmp_path, profile):
    path = tmp_path / "profile.json"
    path.write_text("old")
    write_profile(profile, path)
    assert decode_json(path.read_bytes(), Profile, "profile.json") == profile
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == encode_profile(profile)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_one(tmp_path, profile, monkeypatch, step):
    path = tmp_path / "profile.json"
    path.write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(ConfigError, match=r"profile\.json: cannot be written: No space left on device"):
        write_profile(profile, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_takes_no_file(tmp_path, profile):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written: Not a directory"):
        write_profile(profile, tmp_path / "file" / "profile.json")
