"""``poise check``: would this service serve? Opens all that its file names, and sends nothing anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from poise.cli.console import out, print_json, warning_line
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.files import FrontierCache, ServiceFolder, load_labelled, open_service
from poise.files.metric import metric_file, open_metric
from poise.planning.default_allocation import initial_allocation
from poise.planning.service_model import ServiceModel
from poise.runtimes import mode_labels, open_variant
from poise.scheduling.policies import policy_named


class CheckedVariant(msgspec.Struct, frozen=True):
    """What was found of a variant. ``stages`` are those that a run measures."""

    name: str
    runtime: str
    modality_sets: tuple[str, ...]
    stages: tuple[str, ...]


class Checked(msgspec.Struct, frozen=True):
    """What ``--json`` prints. ``items`` is file -> how many items, of the arrays that are named."""

    ok: bool
    service: str
    variants: tuple[CheckedVariant, ...]
    items: dict[str, int]
    warnings: tuple[str, ...]


def check(
    service: Annotated[Path, typer.Argument(help="The service's folder, or its file.")],
    config: Annotated[
        Path | None, typer.Option(help="Check this server file too: its tokens and certificates.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was found on stdout, as JSON.")] = False,
) -> None:
    """Check a service file and everything that it names: models, arrays, profile."""
    folder = open_service(service)
    checked = check_service(folder)
    if config is not None:
        more = _check_server_file(config, folder.service)
        checked = msgspec.structs.replace(checked, warnings=(*checked.warnings, *more))
    for warning in checked.warnings:
        warning_line(warning)
    if json:
        print_json(checked)
        return
    out.print(f"[green]ok[/] service {checked.service}")
    for variant in checked.variants:
        sets = ", ".join(variant.modality_sets)
        out.print(f"[green]ok[/] variant {variant.name} ({variant.runtime}) answers {sets}", soft_wrap=True)
    for name, count in checked.items.items():
        out.print(f"[green]ok[/] {name}: {count} items")


def _check_server_file(config: Path, service: Service) -> list[str]:
    """Open everything that a server file names; return what should be known of it with a service.

    Raises:
        ConfigError: the first thing that cannot be used.
    """
    from poise.cli.server_settings import (
        Flags,
        classes_without_a_service,
        server_file_of,
        settings_of,
        tokens_of,
    )
    from poise.serving.arena import plan_layout
    from poise.serving.deployment import CellSettings
    from poise.serving.server import tls_of

    file = server_file_of(Flags(config=config))
    tls_of(settings_of(file, CellSettings()))
    plan_layout(service, file.arena_bytes, file.ingress + 1)
    return classes_without_a_service(tokens_of(file, None), [service])


def check_service(folder: ServiceFolder) -> Checked:
    """Open everything that a service file names.

    Raises:
        PoiseError: the first thing that cannot be used.
    """
    service = folder.service
    folder.check_model_files()
    if metric_file(folder) is not None:
        open_metric(folder)
    emulated = any(variant.runtime == "emulated" for variant in service.variants.values())
    profile = folder.load_profile() if emulated or _profile_path(folder).is_file() else None
    policy_named(service.scheduler.policy)
    variants = tuple(_open(folder, name, profile) for name in service.variants)
    items = {
        name: len(load_labelled(folder.resolve(name, field), service))
        for field, name in (("validation", service.validation), ("test", service.test))
        if name is not None
    }
    return Checked(
        ok=True,
        service=service.service,
        variants=variants,
        items=items,
        warnings=tuple(_warnings(folder, profile, measurable=not emulated)),
    )


def _reach_warnings(folder: ServiceFolder, profile: Profile) -> list[str]:
    """Return what the classes ask for that the workers cannot give.

    Raises:
        ConfigError: the profile does not cover the workers that would start, or they cannot be planned.
    """
    service = folder.service
    model = ServiceModel(service, profile, FrontierCache.beside_profile(folder, warning_line))
    plans = [
        model.plans(variant, kind.threads, kind.device)
        for kind in initial_allocation(service, profile)
        for variant in kind.variants
    ]
    highest = max(max(p.model.accuracy) for p in plans)
    least_s = min(
        f.latency_s[0] for p in plans if (f := p.frontier(p.allowed(model.index.all), 1)) and len(f)
    )
    warnings = []
    for name, slo in service.classes.items():
        if slo.accuracy_floor > highest:
            warnings.append(
                f"class {name}: no mode reaches floor {slo.accuracy_floor:g}; the highest is {highest:.4f}"
            )
        if slo.latency_slo_s < least_s:
            warnings.append(
                f"class {name}: no answer takes less than {least_s * 1e3:.3f} ms, the SLO is {slo.latency_slo_ms:g} ms"
            )
    if service.adapter.policy != "static":
        warnings.append(
            f"adapter policy {service.adapter.policy!r} has no effect yet: the workers stay as they start"
        )
    return warnings


def _profile_path(folder: ServiceFolder) -> Path:
    return folder.resolve(folder.service.profile, "profile", must_exist=False)


def _open(folder: ServiceFolder, name: str, profile: Profile | None) -> CheckedVariant:
    service = folder.service
    runner = open_variant(service, name, folder.resolve, profile=profile)
    runtime = service.variants[name].runtime
    if runtime == "emulated" and profile is not None:
        sets = tuple(mode.label for mode in profile.variant(name).modes)
    else:
        sets = mode_labels(service, name)
    return CheckedVariant(name=name, runtime=runtime, modality_sets=sets, stages=runner.stage_names)


def _warnings(folder: ServiceFolder, profile: Profile | None, *, measurable: bool) -> list[str]:
    """Return what does not stop the service and should be known."""
    again = f"run: poise profile {folder.file.parent}"
    if profile is None:
        return [f"profile {folder.service.profile!r} is missing, and serving needs it; {again}"]
    warnings = folder.stale_reasons(profile) + _reach_warnings(folder, profile)
    if measurable:
        warnings += _other_machine(folder.service, profile)
    return [f"the profile may no longer hold: {reason}; {again}" for reason in warnings]


def _other_machine(service: Service, profile: Profile) -> list[str]:
    """Return how this machine differs from the one that the profile was measured on, where it says."""
    from poise.runtimes.machine import fingerprint, runtime_names

    here, there = fingerprint(runtime_names(service)), profile.device
    pairs = [
        ("cpu", there.cpu, here.cpu),
        ("cores", there.cores, here.cores),
        ("runtime", there.runtime, here.runtime),
    ]
    return [
        f"it was measured with {what} {was}, and here it is {now}"
        for what, was, now in pairs
        if was and was != now
    ]
