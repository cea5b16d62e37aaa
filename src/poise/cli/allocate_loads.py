"""What ``--load`` and ``--current`` of ``poise allocate`` say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from poise.domain.allocation import Allocation, Workers
from poise.domain.decoding import decode_json
from poise.domain.service import Service
from poise.errors import ConfigError
from poise.planning.worker_kinds import MODALITIES_AFTER

MOST_LOAD = 1e9
SERVICE_BEFORE = "/"


def loads_of(given: Sequence[str], services: Mapping[str, Service]) -> dict[str, float]:
    """Return the load of each class named in ``RPS`` or ``CLASS=RPS``, of several services ``SERVICE/CLASS=RPS``.

    A class may be followed by ``:`` and the modalities that this part of its jobs brings.

    Raises:
        ConfigError: no such service, class or modalities, no load, or the same one twice.
    """
    found: dict[str, float] = {}
    for text in given:
        name, separator, number = text.rpartition("=")
        key = _class_of(name if separator else "", services)
        if key in found:
            raise ConfigError(f"got the load of {key!r} twice", field="--load", expected="each class once")
        found[key] = _number(number)
    return found


def _number(text: str) -> float:
    try:
        load = float(text)
    except ValueError:
        load = math.nan
    if not 0 <= load <= MOST_LOAD:
        raise ConfigError(f"got {text!r}", field="--load", expected=f"a number from 0 to {MOST_LOAD:g}")
    return load


def _class_of(name: str, services: Mapping[str, Service]) -> str:
    """Return the name by which the planner knows a class."""
    of, separator, rest = name.rpartition(SERVICE_BEFORE)
    several = len(services) > 1
    if several and not separator:
        raise ConfigError(
            f"got {name!r}" if name else "got a load without a class",
            field="--load",
            expected=f"SERVICE/CLASS=RPS with a service of {sorted(services)}",
        )
    if separator and of not in services:
        raise ConfigError(f"got service {of!r}", field="--load", expected=f"one of {sorted(services)}")
    service = services[of] if separator else next(iter(services.values()))
    class_name, separator, label = rest.partition(MODALITIES_AFTER)
    class_name = class_name or service.default_class
    if class_name not in service.classes:
        raise ConfigError(
            f"got class {class_name!r}", field="--load", expected=f"one of {sorted(service.classes)}"
        )
    known = set(service.modalities)
    if separator and not (
        set(label.split("+")) <= known and len(set(label.split("+"))) == len(label.split("+"))
    ):
        raise ConfigError(
            f"got modalities {label!r}", field="--load", expected=f"some of {sorted(known)}, joined by '+'"
        )
    key = class_name + separator + label
    return f"{of}{SERVICE_BEFORE}{key}" if several else key


def current_of(path: Path | None, services: Mapping[str, Service]) -> tuple[Workers, ...]:
    """Return the workers of an allocation that ``--json`` printed; none without a path.

    Raises:
        ConfigError: it cannot be read, or names what the services do not have.
    """
    if path is None:
        return ()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}", file=str(path), expected="a file that --json printed"
        ) from None
    workers = decode_json(data, Allocation, str(path)).workers
    return tuple(_checked(workers, services))


def _checked(workers: Iterable[Workers], services: Mapping[str, Service]) -> Iterable[Workers]:
    for each in workers:
        if len(services) > 1 or each.service:
            service = services.get(each.service)
            if service is None:
                raise ConfigError(
                    f"got service {each.service!r}", field="--current", expected=f"one of {sorted(services)}"
                )
        else:
            service = next(iter(services.values()))
        for name in each.variants:
            if name not in service.variants:
                raise ConfigError(
                    f"got variant {name!r}",
                    field="--current",
                    expected=f"some of {sorted(service.variants)}",
                )
        yield each
