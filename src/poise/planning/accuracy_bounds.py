"""Lower confidence bounds for measured accuracies, all modes at once.

Each mode's bound has level ``(1 − confidence) / modes`` (Bonferroni), so all hold together with probability
at least ``confidence``, and so does any mix of modes. Clopper–Pearson for 0/1 scores, empirical Bernstein
(Maurer and Pontil 2009, theorem 4) otherwise. Both assume that traffic is exchangeable with the validation data
and that the choice of a mode does not look at the content.
"""

from __future__ import annotations

import math

from poise.domain.profile import ModeProfile

BINARY_TOLERANCE = 1e-3
WHOLE_TOLERANCE = 1e-6


def clopper_pearson_lower(accuracy: float, samples: int, level: float) -> float:
    """Return the one-sided lower bound of a proportion at error ``level``: P(X ≥ k | bound) = level.

    Where fewer samples are independent than were scored, *k* need not be whole: it is rounded down.
    """
    successes = math.floor(accuracy * samples + WHOLE_TOLERANCE)
    if successes <= 0:
        return 0.0
    low, high = 0.0, successes / samples
    for _ in range(60):
        middle = (low + high) / 2
        if _binomial_tail(successes, samples, middle) < level:
            low = middle
        else:
            high = middle
    return low


def empirical_bernstein_lower(mean: float, std: float, samples: int, level: float) -> float:
    """Return the one-sided lower bound of the mean of scores in [0, 1]; ``std`` is their deviation about the mean.

    The theorem's variance has *n* − 1 below it, that of ``std`` *n*.
    """
    if samples < 2:
        return 0.0
    spread = math.log(2 / level)
    variance = std * std * samples / (samples - 1)
    return max(0.0, mean - math.sqrt(2 * variance * spread / samples) - 7 * spread / (3 * (samples - 1)))


def promised_accuracy(mode: ModeProfile, confidence: float | None, modes: int) -> float:
    """Return the accuracy that floors are checked against: the mean, or its simultaneous lower bound.

    A mode without ``samples`` promises nothing when a confidence is asked for. Scores whose deviation is within
    ``BINARY_TOLERANCE`` of √(a·(1 − a)), the most that a mean of *a* allows, are taken for 0/1 scores.
    """
    if confidence is None:
        return mode.accuracy
    if mode.samples is None:
        return 0.0
    level = (1 - confidence) / modes
    binary = math.sqrt(mode.accuracy * (1 - mode.accuracy))
    if mode.accuracy_std is None or abs(mode.accuracy_std - binary) < BINARY_TOLERANCE:
        return clopper_pearson_lower(mode.accuracy, mode.samples, level)
    return empirical_bernstein_lower(mode.accuracy, mode.accuracy_std, mode.samples, level)


def _binomial_tail(successes: int, samples: int, probability: float) -> float:
    """P(X ≥ successes) for X binomial, summed in log space."""
    if probability <= 0:
        return 0.0
    if probability >= 1:
        return 1.0
    log_p, log_q = math.log(probability), math.log1p(-probability)
    log_choose = math.lgamma(samples + 1)
    total = 0.0
    for k in range(successes, samples + 1):
        term = math.exp(
            log_choose - math.lgamma(k + 1) - math.lgamma(samples - k + 1) + k * log_p + (samples - k) * log_q
        )
        total += term
        if k > samples * probability and term < 1e-18 * max(total, 1e-300):
            break
    return total
