"""``poise check`` says which stages were profiled at other buckets than the service has."""

import json

import pytest
from tests.runtimes.lengths import copy_lengths

from poise.cli.check import check_service
from poise.errors import ConfigError


def test_a_profile_of_other_buckets_is_told(tmp_path):
    folder = copy_lengths(tmp_path / "lengths")
    assert check_service(folder).warnings == ()
    profile = json.loads((folder.root / "profile.json").read_text())
    speech = profile["variants"][0]["stages"][0]
    assert speech["name"] == "speech"
    speech["latency"] = [point for point in speech["latency"] if point["bucket"] != 8]
    for point in profile["variants"][1]["stages"][1]["latency"]:
        point["batch"] += point.pop("bucket")
    (folder.root / "profile.json").write_text(json.dumps(profile))
    expected = "stage 'speech' of variant 'late' was measured at buckets 4, 16, expected buckets 4, 8, 16"
    with pytest.raises(ConfigError, match=expected):
        check_service(folder)
