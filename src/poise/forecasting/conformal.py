"""Conformal quantiles: how far past forecasts were off says how far the next one may be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from poise.forecasting.base import Rates


def conformal_quantiles(scores: Rates, levels: Sequence[float]) -> Rates:
    """Return for each level the score below which the next one is with at least that probability.

    That is the ⌈(n + 1)·level⌉-th smallest of n scores, which holds where they and the next one are exchangeable; the
    largest one where n is too small for the level. Shapes: ``scores`` [n], n ≥ 1, to [levels].

    Source: split conformal prediction (Lei et al., JASA 2018, section 2.2).
    """
    ordered = np.sort(scores)
    n = len(ordered)
    ranks = [min(n, math.ceil((n + 1) * level - 1e-9)) for level in levels]
    quantiles: Rates = ordered[np.maximum(ranks, 1) - 1]
    return quantiles
