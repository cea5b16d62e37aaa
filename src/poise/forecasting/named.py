"""The forecasters by name: what ``adapter.forecaster.kind`` of a service file means."""

from __future__ import annotations

from collections.abc import Callable

from poise.domain.adapter_settings import ForecasterSettings
from poise.errors import ConfigError
from poise.forecasting.base import Forecaster
from poise.forecasting.burst import Burst
from poise.forecasting.ewma import Ewma
from poise.forecasting.last_max import LastMax
from poise.forecasting.lstm import open_lstm
from poise.forecasting.seasonal import Seasonal, decode_seasonal

KINDS = ("last-max", "ewma", "burst", "lstm", "seasonal")


def forecaster_named(settings: ForecasterSettings, read: Callable[[str], bytes] | None = None) -> Forecaster:
    """Return the forecaster that settings ask for; ``read`` returns a file's content by the name in the settings.

    ``lstm`` needs its file. ``seasonal`` without one begins untrained, as ``burst``; see ``train_seasonal``.

    Raises:
        ConfigError: no such kind, a file that is missing, spoilt or of no use to this kind; and what ``read`` raises.
    """
    kind, file = settings.kind, settings.file
    if kind not in KINDS:
        raise ConfigError(
            f"got {kind!r}", field="adapter.forecaster.kind", expected=f"one of {', '.join(KINDS)}"
        )
    if kind in ("lstm", "seasonal"):
        if file is None and kind == "lstm":
            raise ConfigError(
                "kind lstm has no file",
                field="adapter.forecaster.file",
                expected="one written by poise train-forecaster",
            )
        if file is None:
            return Seasonal()
        if read is None:
            raise ConfigError(
                f"{file!r} cannot be read here",
                field="adapter.forecaster.file",
                expected="no file, or a service's folder",
            )
        return open_lstm(read(file), file) if kind == "lstm" else Seasonal(decode_seasonal(read(file), file))
    if file is not None:
        raise ConfigError(
            f"kind {kind} takes no file",
            field="adapter.forecaster.file",
            expected="none, or kind lstm or seasonal",
        )
    simple: dict[str, type[LastMax] | type[Ewma] | type[Burst]] = {
        "last-max": LastMax,
        "ewma": Ewma,
        "burst": Burst,
    }
    return simple[kind]()
