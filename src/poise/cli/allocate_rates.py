"""The rate table of a service, for every command that plans with E4: kept beside the profile, or simulated now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.progress import Progress

from poise.cli.console import err, warning_line
from poise.domain.rate_table import RateTable
from poise.errors import ConfigError
from poise.files import ServiceFolder
from poise.files.rate_cache import RateCache


def rates_of(
    folder: ServiceFolder, cache: Path | None = None, warn: Callable[[str], None] = warning_line
) -> RateTable:
    """Return the rates of a service; where they are simulated, a bar on stderr says how far that is.

    ``cache``: the folder where they are kept; None: beside the profile.

    Raises:
        ConfigError: no profile, or one whose stages cannot be planned with.
    """
    service, profile = folder.service, folder.load_profile()

    def build() -> RateTable:
        from poise.simulation.rate_table import build_rate_table

        with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
            task = bar.add_task("simulating rates", total=None)
            return build_rate_table(
                service, profile, progress=lambda done, of: bar.update(task, completed=done, total=of)
            )

    try:
        return RateCache.of(folder, warn, cache).table(service, profile, build)
    except ValueError as error:
        raise ConfigError(str(error), file=service.profile, field="variants.stages") from None
