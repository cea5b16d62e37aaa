"""The systems one beside the other: each one's capacity, and what is left of it under multiples of poise's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median

from suite.bench import Bench
from suite.load_search import highest_held
from suite.spread import spread_of

from .cells import Cells
from .figures import Capacity, Overload, SideBySide
from .served import Served
from .systems import BARE, POISE, System
from .trials import Trial, Trials, pace_of

TARGET = 0.99
FACTORS = (1.5, 2.0)
STEP_DOWN, MOST_STEPS_DOWN = 0.97, 2
SHARES = (0.82, 0.86, 0.9, 0.94, 0.98, 1.02)
"""Of the bare loop's capacity: the loads that the best are compared at side by side."""
FIRST_SEED = 101
"""The search's; repeats have the next ones, so that what was found is not what the search was lucky with."""
JOBS, LONGEST_S = 1500, 12.0
"""A light load is sent for longer, so that there are jobs enough to tell 99 %; but no longer than this."""


class Comparison:
    """One run of the comparison, as far as it has come. Loads are in jobs/s."""

    def __init__(self, bench: Bench, cells: Cells, made: Served, trials: list[Trial]) -> None:
        self.bench, self.cells, self.made, self.trials = bench, cells, made, trials
        self.loads: dict[System, float] = {}
        self.left_out: dict[str, str] = {}
        self.shortest_s = bench.options.pick(6, 3)
        self.longest_s = bench.options.pick(LONGEST_S, 5)
        self.most = int(bench.options.pick(7, 5))
        self.seeds = [FIRST_SEED + number for number in range(1, bench.options.repeats + 1)]

    def search(self, system: System, guess: float) -> None:
        """Find the highest load that one run holds."""
        with self._trying(system), self.on(system) as on:

            def holds(load: float) -> bool:
                trial = on.load("search", load, FIRST_SEED, self._duration_s(load))
                return trial.seen.attainment >= TARGET

            self.loads[system] = highest_held(holds, guess, most=self.most)

    def repeat(self, systems: Sequence[System]) -> None:
        """Repeat the loads that were found, in turns; lower those that the median does not hold, and repeat them.

        Raises:
            RuntimeError: poise or the bare loop has held no load.
        """
        for system in systems:
            if not self.loads.get(system):
                raise RuntimeError(f"{system.name} held no load that was tried: is the machine busy?")
        for seed in self.seeds:
            for system in systems:
                with self.on(system) as on:
                    self._repeat_on(on, seed)
        self._lower(systems)

    def rounds(self, first: Sequence[System], peers: Sequence[System]) -> None:
        """In turns: the peers' loads again, and multiples of poise's capacity to each; then lower what is not held."""
        for peer in self._here(peers):
            if not self.loads.get(peer):
                self.left_out[peer.name] = "no load that was tried was held"
        for seed in self.seeds:
            for system in self._here([*first, *peers]):
                with self._trying(system), self.on(system) as on:
                    if system in peers:
                        self._repeat_on(on, seed)
                    for factor in FACTORS:
                        on.load(f"× {factor:g}", factor * self.loads[POISE], seed, self.shortest_s)
        self._lower(peers)

    def side_by_side(self, peers: Sequence[System]) -> list[SideBySide]:
        """Send the same loads to the bare loop, to poise and to the peer that carried most, in turns, at one pace."""
        best = max(self._here(peers), key=lambda peer: self.loads.get(peer, 0.0), default=None)
        systems = [BARE, POISE] + ([] if best is None else [best])
        of: dict[float, list[Trial]] = {}
        with ExitStack() as stack:
            each = [stack.enter_context(self.on(system)) for system in systems]
            for seed in self.seeds:
                for share in SHARES:
                    load, pace = share * self.loads[BARE], pace_of(self.made).now()
                    of.setdefault(share, []).extend(
                        on.load("side by side", load, seed, self.shortest_s, pace) for on in each
                    )
        return [
            SideBySide(
                share=share,
                load_rps=trials[0].load_rps,
                attainment={
                    system.name: spread_of(t.seen.attainment for t in trials if t.system == system.name)
                    for system in systems
                },
                valid=all(t.valid for t in trials),
            )
            for share, trials in of.items()
        ]

    def _repeat_on(self, on: Trials, seed: int) -> None:
        load = self.loads[on.system]
        on.load("repeat", load, seed, self._duration_s(load))

    def _lower(self, systems: Sequence[System]) -> None:
        """Lower the loads that the median of the repeats does not hold, and repeat those; and once more."""
        for _ in range(MOST_STEPS_DOWN):
            left = [each for each in self._here(systems) if self._median_attainment(each) < TARGET]
            for system in left:
                self.loads[system] = round(self.loads[system] * STEP_DOWN, 1)
            for seed in self.seeds:
                for system in self._here(left):
                    with self._trying(system), self.on(system) as on:
                        self._repeat_on(on, seed)

    def capacities(self) -> list[Capacity]:
        """Return what was found, systems in the order in which they were searched."""
        return [self._capacity(system) for system in self._here(self.loads) if self.loads[system]]

    def overloads(self) -> list[Overload]:
        """Return what was found."""
        found = []
        for system in self._here(self.loads):
            for factor in FACTORS:
                of = [t for t in self.trials if t.system == system.name and t.purpose == f"× {factor:g}"]
                if of:
                    found.append(
                        Overload(
                            system=system.name,
                            factor=factor,
                            load_rps=of[0].load_rps,
                            goodput_rps=spread_of(t.goodput_rps for t in of),
                            valid=all(t.valid for t in of),
                        )
                    )
        return found

    def _capacity(self, system: System) -> Capacity:
        of = self._repeats(system)
        return Capacity(
            system=system.name,
            load_rps=self.loads[system],
            share=self.loads[system] / self.loads[BARE],
            attainment=spread_of(t.seen.attainment for t in of),
            p50_s=spread_of(t.seen.latency_s.p50 for t in of if t.seen.latency_s),
            p99_s=spread_of(t.seen.latency_s.p99 for t in of if t.seen.latency_s),
            server_cores=spread_of(t.seen.server_cores for t in of),
            held=self._median_attainment(system) >= TARGET,
            valid=all(t.valid for t in of),
        )

    def _repeats(self, system: System) -> list[Trial]:
        load = round(self.loads[system], 1)
        return [t for t in self.trials if (t.system, t.purpose, t.load_rps) == (system.name, "repeat", load)]

    def _median_attainment(self, system: System) -> float:
        return median(t.seen.attainment for t in self._repeats(system))

    def _duration_s(self, load: float) -> float:
        return round(min(self.longest_s, max(self.shortest_s, JOBS / load)), 1)

    def _here(self, systems: Iterable[System]) -> list[System]:
        return [system for system in systems if system.name not in self.left_out]

    @contextmanager
    def _trying(self, system: System) -> Iterator[None]:
        """Leave a peer out, and say why, where it does not start or answer; without the others there is nothing."""
        try:
            yield
        except RuntimeError as error:
            if not system.is_peer:
                raise
            self.left_out[system.name] = str(error)
            self.bench.say(f"{system.name} is left out: {error}")

    def on(self, system: System) -> Trials:
        """Return the trials of a system, to be opened."""
        return Trials(self.bench, self.cells, self.made, system, self.trials)
