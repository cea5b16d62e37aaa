"""One load on one system, measured once and kept."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import msgspec
from suite.bench import Bench

from .cells import Cells
from .pace import Pace
from .pinned import on_server_core, python
from .seen import LoadSeen, LoadSpec
from .served import Served
from .systems import Running, System, running

HERE = Path(__file__).resolve().parent
TRIES, SETTLE_S, SPARE_S = 20, 1.0, 60.0
MOST_OTHERS_CORES = 0.1
"""Of the machine's, that everything else, and other machines on the same host, may take on average."""
AGAIN, PAUSE_S = 2, 15.0
"""How often a run that is not valid is done again, and how long it waits for the machine to be left alone."""
RUN_OVER = 0.3
"""Who attains less than this may be busy long after."""
MOST_DRIFT = 0.06
"""How far the machine's pace may change while a load is sent."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one system. Units: jobs/s, seconds. Loads are at the pace at which batches were timed."""

    system: str
    purpose: str
    load_rps: float
    seed: int
    duration_s: float
    seen: LoadSeen

    @property
    def goodput_rps(self) -> float:
        """Right answers in time, a second, at the pace at which batches were timed."""
        return self.seen.good / self.duration_s / self.seen.pace

    @property
    def valid(self) -> bool:
        """Whether the generator kept up (the bare loop needs none), and the machine was left to them."""
        return is_valid(self.seen)


def reasons(seen: LoadSeen) -> list[str]:
    """Return why a run is not valid."""
    found = list(seen.generator.reasons) if seen.generator else []
    if seen.others_cores > MOST_OTHERS_CORES:
        found.append(f"others took {seen.others_cores:.2f} cores, allowed {MOST_OTHERS_CORES:g}")
    if abs(seen.drift) > MOST_DRIFT:
        found.append(f"the machine's pace changed by {seen.drift:.0%}, allowed {MOST_DRIFT:.0%}")
    return found


def is_valid(seen: LoadSeen) -> bool:
    """Whether there is no reason against a run."""
    return not reasons(seen)


class Trials:
    """The trials of one system while its server runs; it is started when a load is first sent that is not known.

    ``kept``: where they are added. ``sleeps``: its workers sleep, and what they answer is not looked at.
    """

    def __init__(
        self,
        bench: Bench,
        cells: Cells,
        made: Served,
        system: System,
        kept: list[Trial],
        *,
        sleeps: bool = False,
    ) -> None:
        self.bench, self.cells, self.made, self.system = bench, cells, made, system
        self.kept, self.sleeps = kept, sleeps
        self._stack = ExitStack()
        self._server: Running | None = None
        self._pace = pace_of(made)

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._server = None

    def load(
        self, purpose: str, load_rps: float, seed: int, duration_s: float, pace: float | None = None
    ) -> Trial:
        """Send a load, or return what is known of it; a run that is not valid is done again.

        ``pace``: the machine's, where it was measured for several systems together.
        """
        load_rps = round(load_rps, 1)
        what = [self._what, self.system.fingerprint(), load_rps, seed, duration_s, self.made.slo_s]
        key = msgspec.json.encode(what if pace is None else [*what, "at one pace"]).decode()
        known = key in self.cells
        seen = self.cells.once(key, LoadSeen, lambda: self._sent(load_rps, seed, duration_s, pace))
        trial = Trial(
            system=self._what, purpose=purpose, load_rps=load_rps, seed=seed, duration_s=duration_s, seen=seen
        )
        self.kept.append(trial)
        self.bench.say(
            f"{trial.system} {purpose}, {load_rps:g} jobs/s: {seen.attainment:.2%} attain, goodput "
            f"{trial.goodput_rps:.0f}/s"
            + (
                f", p50 {seen.latency_s.p50 * 1e3:.1f}, p99 {seen.latency_s.p99 * 1e3:.1f} ms"
                if seen.latency_s
                else ""
            )
            + f", pace {seen.pace:.2f}"
            + (f", {seen.errors}" if seen.errors else "")
            + ("" if trial.valid else f", not valid: {', '.join(reasons(seen))}")
            + (" (known)" if known else "")
        )
        return trial

    @property
    def _what(self) -> str:
        return f"{self.system.name}, sleeping workers" if self.sleeps else self.system.name

    def _sent(self, load_rps: float, seed: int, duration_s: float, pace: float | None) -> LoadSeen:
        seen = self._send(load_rps, seed, duration_s, pace)
        for _ in range(AGAIN):
            if is_valid(seen):
                break
            self.bench.say(f"once more, in {PAUSE_S:g} s: {', '.join(reasons(seen))}")
            time.sleep(PAUSE_S)
            seen = self._send(load_rps, seed, duration_s, pace)
        return seen

    def _send(self, load_rps: float, seed: int, duration_s: float, pace: float | None) -> LoadSeen:
        made, system = self.made, self.system
        spec = LoadSpec(
            rate_rps=0.0,
            duration_s=duration_s,
            seed=seed,
            slo_s=made.slo_s,
            reference=str(made.echo_reference if system.name == "echo" else made.reference),
            path=system.path,
            wire=system.wire,
            any_answer=self.sleeps,
            model=str(made.model),
            service_s=made.service_s,
        )
        if system.name == "bare":
            return self._paced(on_server_core(*python("serving.bare")), spec, load_rps, pace)
        if self._server is None:
            work = self.bench.options.work
            self._server = self._started(work)
            time.sleep(SETTLE_S)
        spec = msgspec.structs.replace(spec, url=self._server.url, pid=self._server.pid)
        self._until_ready(spec)
        return self._paced(python("serving.generator"), spec, load_rps, pace)

    def _paced(self, command: list[str], spec: LoadSpec, load_rps: float, pace: float | None) -> LoadSeen:
        """Send a load at the machine's pace, and look whether that held."""
        before = self._pace.now() if pace is None else pace
        rate_rps = load_rps * before
        spec = msgspec.structs.replace(
            spec, rate_rps=rate_rps, min_jobs=int(min(1000, 0.8 * rate_rps * spec.duration_s))
        )
        seen = seen_by(command, spec)
        # One that has no bound on its queue, or was run over, is still busy with it, and the machine looks slow.
        looked_at = pace is None and self.system.bounded and seen.attainment > RUN_OVER
        drift = self._pace.now() / before - 1.0 if looked_at else 0.0
        return msgspec.structs.replace(seen, pace=before, drift=drift)

    def _started(self, work: Path) -> Running:
        """Start the server; somebody else may have taken its port, so once more if it does not start."""
        try:
            return self._stack.enter_context(running(self.system, self.made, work))
        except RuntimeError as error:
            self.bench.say(f"once more: {error}")
            return self._stack.enter_context(running(self.system, self.made, work))

    def _until_ready(self, spec: LoadSpec) -> None:
        """Wait until the server answers a few requests one by one, rightly and soon: what was before is done then.

        Raises:
            RuntimeError: it does not.
        """
        probe = msgspec.structs.replace(spec, rate_rps=20.0, duration_s=0.5, seed=1, warm_up=5, min_jobs=0)
        said = ""
        for _ in range(TRIES):
            try:
                if seen_by(python("serving.generator"), probe).attainment == 1.0:
                    return
            except RuntimeError as error:
                said = str(error)
            time.sleep(SETTLE_S)
        log = (self.bench.options.work / f"{self.system.name}.log").read_text(errors="replace")
        raise RuntimeError(f"{self.system.name} does not answer: {said} {log[-1500:]}")


@cache
def pace_of(made: Served) -> Pace:
    """Return the one that times this model."""
    return Pace(made.model, made.service_s)


def seen_by(command: list[str], spec: LoadSpec) -> LoadSeen:
    """Run a generator, or the bare loop.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    done = subprocess.run(
        command,
        cwd=HERE.parent,
        input=msgspec.json.encode(spec),
        capture_output=True,
        check=False,
        timeout=spec.duration_s + SPARE_S,
    )
    if done.returncode:
        raise RuntimeError(f"{command[-1]}: {done.stderr.decode(errors='replace').strip()[-500:]}")
    return msgspec.json.decode(done.stdout, type=LoadSeen)
