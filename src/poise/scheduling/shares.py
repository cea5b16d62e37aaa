"""The shares of the load that an allocation gives to the variants, and what was answered against them of late."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp, inf

from poise.domain.service import Service
from poise.errors import InternalError
from poise.scheduling.events import AllocationAdopted

FORGOTTEN_S = 30.0
"""What was answered so long ago counts for 1/e of what is answered now."""
TOLERANCE = 0.01
"""A variant is beyond its share where it answered more than that by so much of all that counts.

One batch more may follow before that shows. Over a minute the two ends of the account, and what it forgot meanwhile,
can add up to ``2·TOLERANCE`` and four batches: at 100 items/s and batches of 32 to 4.1 points.
"""

Shares = Mapping[str, Mapping[str, float]]
"""Class -> variant -> its share of the class's load, where it is positive."""


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


class ShareAccount:
    """The items of each class that each variant was given, exponentially forgotten, against its share.

    The shares that count are those of variants that live workers hold, scaled to 1; a class without any is left to the
    policy. ``deviations``: by class, the items given to a variant that was beyond its share already.
    """

    def __init__(self, service: Service) -> None:
        self.shares: Shares = {}
        self.deviations = dict.fromkeys(service.classes, 0)
        self._held: frozenset[str] = frozenset()
        self._targets: dict[str, dict[str, float]] = {}
        self._items: dict[str, dict[str, float]] = {name: {} for name in service.classes}
        self._total = dict.fromkeys(service.classes, 0.0)
        self._at_s = dict.fromkeys(service.classes, -inf)

    def adopt(self, shares: Shares) -> None:
        """Steer by these shares from now on; what was answered before counts still."""
        self.shares = shares
        self._targets.clear()

    def hold(self, variants: frozenset[str]) -> None:
        """Note which variants live workers hold."""
        if variants != self._held:
            self._held = variants
            self._targets.clear()

    def targets(self, slo_class: str) -> Mapping[str, float]:
        """Return the shares of a class that count, which add up to 1; empty where it is left to the policy."""
        found = self._targets.get(slo_class)
        if found is None:
            shares = self.shares.get(slo_class, {})
            held = {variant: share for variant, share in shares.items() if variant in self._held}
            total = sum(held.values())
            found = self._targets[slo_class] = {variant: share / total for variant, share in held.items()}
        return found

    def beyond(self, slo_class: str, variant: str) -> bool:
        """Whether a variant has been given more of a class than its share and the tolerance."""
        targets = self.targets(slo_class)
        if not targets:
            return False
        share = targets.get(variant, 0.0)
        given = self._items[slo_class].get(variant, 0.0)
        return share == 0.0 or given > (share + TOLERANCE) * self._total[slo_class]

    def give(self, now_s: float, variant: str, given: Iterable[tuple[str, int]]) -> None:
        """Count the items, by class, that a variant is given in one batch, and those of them beyond its share."""
        items: dict[str, int] = {}
        for slo_class, count in given:
            items[slo_class] = items.get(slo_class, 0) + count
        for slo_class, count in items.items():
            if self.beyond(slo_class, variant):
                self.deviations[slo_class] += count
            counts = self._items[slo_class]
            kept = exp(-max(0.0, now_s - self._at_s[slo_class]) / FORGOTTEN_S)
            for name in counts:
                counts[name] *= kept
            self._at_s[slo_class] = max(now_s, self._at_s[slo_class])
            counts[variant] = counts.get(variant, 0.0) + count
            self._total[slo_class] = sum(counts.values())
