"""Runs the benchmarks, all or some: prints tables, writes JSON.

make bench                              all of them
make bench ARGS='capacity overload'     some
make bench ARGS='scheduling'            those that compare the scheduling policies
make bench ARGS='--quick'               to see that they run; the figures are worth nothing
make bench ARGS='--tables'              the tables of the results that are there, in Markdown
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, ModuleType

from rich.console import Console
from suite.bench import Bench, Options
from suite.results import read_result, this_machine, write_result

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
QUICK_RESULTS = ROOT / "runs" / "bench"

BENCHMARKS: Mapping[str, str] = MappingProxyType(
    {
        "capacity": "suite.capacity",
        "overload": "suite.overload",
        "accuracy": "suite.accuracy",
        "front_end": "suite.front_end",
        "large_json": "suite.large_json",
        "ingress": "suite.ingress",
        "scheduler": "suite.scheduler",
        "queue_plan": "suite.queue_plan",
        "allocation": "suite.allocation",
        "simulator": "suite.simulator",
        "profile": "suite.profile",
        "held": "scheduling.held",
        "completion": "scheduling.completion",
        "effective": "scheduling.effective",
        "wrong_profile": "scheduling.wrong_profile",
        "tenants": "scheduling.tenants",
        "bursts": "scheduling.bursts",
        "held_live": "scheduling.held_live",
        "agreement": "scheduling.agreement",
        "forecasting": "forecasting.twitter",
        "adapting": "adapting.simulated",
        "adapting_live": "adapting.live",
        "joint": "adapting.joint",
        "serving": "serving.servers",
    }
)
"""Name -> module: ``measure(bench)`` runs it, ``grids(result)`` are its tables, ``Result`` is what it found.

A module may have ``missing()``: why it cannot run here, or None.
"""
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        group: tuple(name for name, module in BENCHMARKS.items() if module.startswith(f"{group}."))
        for group in ("scheduling",)
    }
)

out = Console() if sys.stdout.isatty() else Console(width=160)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [*BENCHMARKS, *GROUPS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="short runs; writes to runs/bench")
    parser.add_argument(
        "--repeats", type=int, default=None, help="runs of each figure (default: 3; quick: 2)"
    )
    parser.add_argument("--service", type=Path, default=ROOT / "examples" / "digits", help="the example")
    parser.add_argument("--keep-profile", action="store_true", help="take the service's profile as it is")
    parser.add_argument("--jobs", type=int, default=1, help="processes that simulate the comparisons at once")
    parser.add_argument("--out", type=Path, default=None, help="where results go")
    parser.add_argument(
        "--tables", action="store_true", help="print the results there in Markdown, run nothing"
    )
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in known]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}: expected some of {', '.join(known)}")
    chosen = {each for name in given.names for each in GROUPS.get(name, (name,))}
    given.names = [name for name in BENCHMARKS if name in chosen or not chosen]
    given.repeats = given.repeats or (2 if given.quick else 3)
    given.out = given.out or (QUICK_RESULTS if given.quick else RESULTS)
    return given


def main() -> None:
    """Run what the command line names, in the order in which the benchmarks are listed."""
    given = arguments()
    if given.tables:
        for name in given.names:
            print_markdown(name, given.out)
        return
    out.print(this_machine().text(), highlight=False)
    with tempfile.TemporaryDirectory(prefix="poise-bench-") as work:
        bench = Bench(
            Options(
                service=given.service.resolve(),
                results=given.out.resolve(),
                work=Path(work),
                quick=given.quick,
                repeats=given.repeats,
                keep_profile=given.keep_profile,
                jobs=given.jobs,
            )
        )
        for name in given.names:
            module = module_of(name)
            if module is not None:
                run_one(name, module, bench)


def module_of(name: str) -> ModuleType | None:
    """Return a benchmark's module; None, having said so, where this version has no such file."""
    if find_spec(BENCHMARKS[name]) is None:
        print(f"{name}: no module {BENCHMARKS[name]}, left out", file=sys.stderr)
        return None
    return import_module(BENCHMARKS[name])


def run_one(name: str, module: ModuleType, bench: Bench) -> None:
    """Run one benchmark, print its tables and write its file."""
    out.rule(name)
    lacking = module.missing() if hasattr(module, "missing") else None
    if lacking is not None:
        print(f"{name}: left out: {lacking}", file=sys.stderr)
        return
    bench.begin(name)
    start = time.perf_counter()
    result = module.measure(bench)
    took_s = time.perf_counter() - start
    options = bench.options
    path = write_result(
        options.results, name, result, quick=options.quick, repeats=options.repeats, took_s=took_s
    )
    for grid in module.grids(result):
        out.print(grid.for_terminal())
    out.print(f"{path}, {took_s:.0f} s", soft_wrap=True, highlight=False)


def print_markdown(name: str, folder: Path) -> None:
    """Print a result's tables as the README has them."""
    path = folder / f"{name}.json"
    module = module_of(name)
    if not path.is_file() or module is None:
        print(f"no result at {path}", file=sys.stderr)
        return
    written = read_result(path)
    quick = ", **a quick run**" if written.quick else ""
    print(f"### {name}\n\n{written.date}, {written.machine.text()}, {written.took_s:.0f} s{quick}.\n")
    for grid in module.grids(written.decoded(module.Result)):
        if not grid.detail:
            print(grid.markdown() + "\n")


if __name__ == "__main__":
    main()
