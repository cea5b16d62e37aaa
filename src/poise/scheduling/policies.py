"""The scheduling policies by name; each is a class behind the small interface of ``view.Policy``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from poise.errors import ConfigError
from poise.scheduling.baselines import Cheapest, Edf, EdfOpen, Fifo, FifoOpen, SlackFit
from poise.scheduling.jobwise import Jobwise
from poise.scheduling.mosel import Mosel
from poise.scheduling.mosel_max import MoselMax
from poise.scheduling.poise_policy import Poise
from poise.scheduling.view import Policy
from poise.scheduling.weighted import Weighted

_EVERY: tuple[type[Policy], ...] = (
    Poise,
    Edf,
    EdfOpen,
    Fifo,
    FifoOpen,
    Cheapest,
    SlackFit,
    Mosel,
    MoselMax,
    Jobwise,
    Weighted,
)

POLICIES: Mapping[str, type[Policy]] = MappingProxyType({policy.name: policy for policy in _EVERY})
"""Policy name -> class."""


def policy_named(name: str) -> Policy:
    """Return a policy by its name.

    Raises:
        ConfigError: no such policy.
    """
    if name not in POLICIES:
        raise ConfigError(
            f"unknown policy {name!r}",
            field="scheduler.policy",
            expected="one of " + ", ".join(sorted(POLICIES)),
        )
    return POLICIES[name]()
