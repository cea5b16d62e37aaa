"""Live runs of a setting, each beside the simulation of the same jobs."""

from __future__ import annotations

import msgspec
from suite.bench import Bench, link_or_copy, write_service
from suite.live import send_poisson

from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.domain.workload import Arrivals, Workload
from poise.files import ServiceFolder, open_service
from poise.simulation.simulate import simulate
from poise.workload import JobDraw, draw_jobs

from .cells import Cells


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One live run, and the same jobs simulated. Units: jobs/s, seconds; shares of one core.

    ``simulated_*`` takes the front end to need no time; ``charged_*`` charges each job the front end's measured
    processor time, one job at a time. ``others_cores``: cores that everything else on the machine took.
    ``valid``: whether the generator kept up; ``again``: it did not at first, and this is the second try.
    """

    policy: str
    floor: float
    load_rps: float
    seed: int
    duration_s: float
    jobs: int
    attainment: float
    mean_accuracy: float
    served_accuracy: float | None
    simulated_attainment: float
    simulated_accuracy: float
    charged_attainment: float
    charged_accuracy: float
    front_end_s: float
    p99_latency_s: float
    late: int
    refused: int
    others_cores: float
    valid: bool
    again: bool


def served_folder(bench: Bench, service: Service, name: str) -> ServiceFolder:
    """Return a folder with a changed service file, and the flagship's models, arrays and profile."""
    folder = bench.options.work / name
    if not folder.exists():
        bench.measured()
        write_service(service, folder)
        for path in sorted(bench.folder.root.rglob("*")):
            known = path.relative_to(bench.folder.root)
            if path.is_file() and known.name != "service.yaml":
                link_or_copy(path, folder / known)
    return open_service(folder)


def trial(bench: Bench, cells: Cells, folder: ServiceFolder, policy: str, load: float, seed: int) -> Trial:
    """Run one load live, once more if the generator did not keep up, and simulate the same jobs; kept once done."""
    duration_s = round(max(bench.options.pick(12, 4), bench.options.pick(1300, 150) / load), 1)
    service, profile = folder.service, folder.load_profile()
    slo = service.classes[service.default_class]
    key = f"live {policy} {slo.latency_slo_ms:g} {slo.accuracy_floor:g} {load!r} {seed} {duration_s}"
    return cells.once(
        key, Trial, lambda: _run(bench, folder, service, profile, policy, load, seed, duration_s)
    )


def poisson_draws(service: Service, load: float, duration_s: float, seed: int) -> list[JobDraw]:
    """Draw Poisson arrivals at the class's floor, as ``poise load --rate --seed`` does."""
    arrivals = Arrivals(process="poisson", rate_rps=load, duration_s=duration_s)
    workload = Workload(format=1, arrivals=arrivals, seed=seed)
    return draw_jobs(workload, classes=tuple(service.classes), index=service.modality_index)


def _run(
    bench: Bench,
    folder: ServiceFolder,
    service: Service,
    profile: Profile,
    policy: str,
    load: float,
    seed: int,
    duration_s: float,
) -> Trial:
    floor = service.classes[service.default_class].accuracy_floor
    sent = send_poisson(bench, policy, load, duration_s, seed, folder=folder.root, floor=floor)
    again = not sent.report.generator.valid
    if again:
        sent = send_poisson(bench, policy, load, duration_s, seed, folder=folder.root, floor=floor)
    report = sent.report.run
    front_end_s = sent.front_end_cpu_s / max(1, report.jobs)
    jobs = poisson_draws(service, load, duration_s, seed)
    plain, charged = (
        simulate(
            service, profile, jobs, duration_s=duration_s, policy=policy, seed=seed, front_end_s=each_s
        ).report
        for each_s in (0.0, front_end_s)
    )
    bench.say(
        f"live {policy}, floor {floor:g}, {load:.1f} jobs/s: attainment {report.attainment:.2%}, simulated "
        f"{plain.attainment:.2%}, with the front end charged {charged.attainment:.2%}"
        + ("" if sent.report.generator.valid else ", the generator did not keep up")
    )
    return Trial(
        policy=policy,
        floor=floor,
        load_rps=load,
        seed=seed,
        duration_s=duration_s,
        jobs=report.jobs,
        attainment=report.attainment,
        mean_accuracy=report.mean_accuracy or 0.0,
        served_accuracy=report.served_accuracy,
        simulated_attainment=plain.attainment,
        simulated_accuracy=plain.mean_accuracy or 0.0,
        charged_attainment=charged.attainment,
        charged_accuracy=charged.mean_accuracy or 0.0,
        front_end_s=front_end_s,
        p99_latency_s=report.latency_s.p99 if report.latency_s else 0.0,
        late=report.late,
        refused=sum(report.refused.values()),
        others_cores=sent.others_cores,
        valid=sent.report.generator.valid,
        again=again,
    )
