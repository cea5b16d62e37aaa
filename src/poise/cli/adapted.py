"""What an adapter is put together from, for the commands: rates and a forecaster, read from a service's folder."""

from __future__ import annotations

from poise.adapting.policies import Served, check_policy
from poise.cli.allocate_rates import rates_of
from poise.domain.profile import Profile
from poise.files import ServiceFolder
from poise.forecasting.base import Forecaster
from poise.forecasting.named import forecaster_named

FORECASTER_FILE = "adapter.forecaster.file"


def served_by(folder: ServiceFolder, profile: Profile, policy: str) -> Served:
    """Return a service as an adapter knows it; policy ``poise`` needs its rates, which are simulated if not kept.

    Raises:
        ConfigError: no such policy.
    """
    check_policy(policy)
    return Served(folder.service, profile, rates_of(folder) if policy == "poise" else None)


def forecaster_of(folder: ServiceFolder) -> Forecaster:
    """Return the forecaster that a service file asks for.

    Raises:
        ConfigError: no such kind, or a file that it cannot use.
    """
    return forecaster_named(
        folder.service.adapter.forecaster, lambda name: folder.resolve(name, FORECASTER_FILE).read_bytes()
    )
