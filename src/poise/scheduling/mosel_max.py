"""The policy ``mosel-max``: MOSEL's online programme under one total-time constraint, exactly."""

from __future__ import annotations

from poise.planning.one_sum import best_under_sum
from poise.scheduling.mosel import LATE_S, Line, Mosel, plan_of


class MoselMax(Mosel):
    """As ``mosel``, but the jobs up to the late one are planned anew, together, for the most accuracy.

    Source: MOSEL (EMNLP 2024), step 3, and the policy ``maximize`` of its released artifact: maximise
    ``Σ acc_j·|j|`` with every job at or above its floor and ``Σ l_j ≤ T``, the time until the late job's deadline.
    Solved exactly and without the artifact's limit of 100 ms, its 9 % of head-room and its fall-back. The sum holds
    the late job's deadline only: a job before it whose plan rose may now be late, and is then the next to be
    planned for. That ends, because planning for an earlier job only shortens what stands before a later one.

    With several workers *T* is the time of all of them together. Where that plan still leaves the job late, the
    jobs are lowered one after another as in ``mosel``.
    """

    name = "mosel-max"

    def _cover(self, line: Line, place: int, late_s: float) -> bool:
        """Plan the jobs up to a late one anew; False if it cannot be in time."""
        if line.solved <= len(line.entries):
            line.solved += 1
            if not self._solve(line, place):
                return False
            late_s = line.late_s(place)
        return late_s <= LATE_S or super()._cover(line, place, late_s)

    def _solve(self, line: Line, place: int) -> bool:
        """Set the plans of the jobs up to a place; False if their floors take longer than there is."""
        times_s: list[list[float]] = []
        values: list[list[float]] = []
        jobs = [
            (entry, line.placed[entry.job.id])
            for entry in line.entries[: place + 1]
            if entry.job.id in line.placed
        ]
        for entry, worker in jobs:
            steps, calibration = line.steps(entry, worker), worker.calibration
            way_s = calibration.overhead_s * steps.batches
            times_s.append([calibration.factor * t + way_s for t in steps.latency_s[steps.floor_at :]])
            values.append([a * entry.waiting_items for a in steps.accuracy[steps.floor_at :]])
        chosen = best_under_sum(times_s, values, line.room_s(line.entries[place].job.deadline_s))
        if chosen is None:
            return False
        for (entry, worker), choice in zip(jobs, chosen, strict=True):
            steps = line.steps(entry, worker)
            plan_of(entry).target = steps.accuracy[steps.floor_at + choice]
        return True
