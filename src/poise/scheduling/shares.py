"""The shares of the load that an allocation gives to the variants, and what is answered against them."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from poise.domain.service import Service
from poise.errors import InternalError
from poise.scheduling.events import AllocationAdopted

Shares = Mapping[str, float]
"""Variant -> its share of a class's load."""


def checked_shares(event: AllocationAdopted, service: Service) -> dict[str, dict[str, float]]:
    """Return the positive shares of each class that has any.

    Raises:
        InternalError: a class or variant that the service does not have, or a share that is none.
    """
    found: dict[str, dict[str, float]] = {}
    for slo_class, shares in event.shares.items():
        if slo_class not in service.classes:
            raise InternalError(f"shares of an unknown class {slo_class!r}", story=(repr(event),))
        for variant, share in shares.items():
            if variant not in service.variants:
                raise InternalError(f"a share for an unknown variant {variant!r}", story=(repr(event),))
            if not 0.0 <= share < inf:
                raise InternalError(f"a share of {share!r}, expected 0 or more", story=(repr(event),))
        positive = {variant: share for variant, share in shares.items() if share > 0}
        if positive:
            found[slo_class] = positive
    return found
