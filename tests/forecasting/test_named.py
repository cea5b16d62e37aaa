"""Forecasters by name, as a service file asks for them."""

from __future__ import annotations

import pytest

from poise.domain.adapter_settings import ForecasterSettings
from poise.errors import ConfigError
from poise.forecasting.named import KINDS, forecaster_named
from poise.forecasting.seasonal import Seasonal, SeasonalModel, encode_seasonal


def test_every_kind_is_there(model: SeasonalModel, lstm_file: bytes) -> None:
    files = {"s.json": encode_seasonal(model), "l.onnx": lstm_file}
    file_of = {"lstm": "l.onnx", "seasonal": "s.json"}
    for kind in KINDS:
        found = forecaster_named(ForecasterSettings(kind=kind, file=file_of.get(kind)), files.__getitem__)
        assert found.name == kind
    found = forecaster_named(ForecasterSettings(kind="seasonal", file="s.json"), files.__getitem__)
    assert isinstance(found, Seasonal)
    assert found.model == model


def test_seasonal_may_begin_untrained() -> None:
    found = forecaster_named(ForecasterSettings(kind="seasonal"))
    assert isinstance(found, Seasonal)
    assert found.model is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ForecasterSettings(kind="prophet"),
            "adapter.forecaster.kind: got 'prophet', expected one of last-max, ewma, burst, lstm, seasonal",
        ),
        (ForecasterSettings(kind="lstm"), "adapter.forecaster.file: kind lstm has no file"),
        (ForecasterSettings(kind="burst", file="x"), "adapter.forecaster.file: kind burst takes no file"),
        (ForecasterSettings(kind="seasonal", file="x"), "adapter.forecaster.file: 'x' cannot be read here"),
    ],
)
def test_what_cannot_be_is_said(settings: ForecasterSettings, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        forecaster_named(settings)
    assert said in str(error.value)


@pytest.mark.parametrize("kind", ["lstm", "seasonal"])
def test_a_spoilt_file_is_named(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"^my\.file: "):
        forecaster_named(ForecasterSettings(kind=kind, file="my.file"), lambda _: b"spoilt")
