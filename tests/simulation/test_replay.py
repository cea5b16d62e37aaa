"""A log replays to the same commands; one that was tampered with does not."""

import numpy as np
import pytest

from poise.domain.job import RefusalReason
from poise.scheduling.commands import Refuse
from poise.scheduling.log import LogHeader, decode_log, encode_entry, encode_header
from poise.scheduling.policies import POLICIES
from poise.simulation.faults import Faults, LostWorker, SlowWorker
from poise.simulation.replay import MAX_DIFFERING, replay
from poise.simulation.simulate import simulate


@pytest.fixture(params=sorted(POLICIES))
def log(request, emulated, draws) -> list[bytes]:
    """The log of a simulation with faults, in which some jobs are refused."""
    service, profile = emulated()
    lines = [encode_header(LogHeader(poise="0", service=service, profile=profile, policy=request.param))]
    simulate(
        service,
        profile,
        draws(np.sort(np.random.default_rng(2).uniform(0, 1, 1000)).tolist(), items=4),
        duration_s=1.0,
        policy=request.param,
        faults=Faults(lost=(LostWorker(1, 0.5, 0.4),), slow=(SlowWorker(0, 1.0, 2.0),), profile_error=1.1),
        observe=lambda event, commands: lines.append(encode_entry(event, commands)),
    )
    return lines


def test_a_simulated_log_replays_to_the_same_commands(log):
    report = replay(*decode_log(log))
    assert report.same
    assert (report.events, report.differing) == (len(log) - 1, ())
    header, _ = decode_log(log)
    assert (b'"Refuse"' in b"".join(log)) is POLICIES[str(header.policy)].admits


def test_a_command_that_was_tampered_with_is_reported_by_its_line(log):
    place = next(i for i, line in enumerate(log) if b'"expected_s":0' in line)
    log[place] = log[place].replace(b'"expected_s":0', b'"expected_s":1', 1)
    report = replay(*decode_log(log))
    (difference,) = report.differing
    assert (report.differences, difference.line) == (1, place + 1)
    assert difference.expected != difference.got


def test_commands_left_out_or_added_are_differences(log):
    header, entries = decode_log(log)
    recorded = list(entries)
    first = next(i for i, (_, commands) in enumerate(recorded) if commands)
    recorded[first] = (recorded[first][0], [])
    recorded[-1][1].append(Refuse(1, RefusalReason.CANCELLED, ""))
    report = replay(header, recorded)
    assert [difference.line for difference in report.differing] == [first + 2, len(recorded) + 1]


def test_another_policy_differs_and_what_it_cannot_take_ends_the_replay(log):
    header, entries = decode_log(log)
    other = next(name for name in POLICIES if name != header.policy)
    report = replay(
        LogHeader(poise="0", service=header.service, profile=header.profile, policy=other), entries
    )
    assert not report.same
    assert len(report.differing) <= MAX_DIFFERING
    if report.events < len(log) - 1:
        assert report.differing[-1].failed or report.differences > MAX_DIFFERING
