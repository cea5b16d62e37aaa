"""Every cap of the front ends, in one value."""

from __future__ import annotations

import msgspec

from poise.domain.quantities import require_at_least_one, require_positive, require_within

MOST = 2**31 - 1
"""Of anything: gRPC takes no greater numbers, and a body that is longer finds no memory."""
MOST_TOGETHER_BYTES = 2**50
LONGEST_S = 1e6
"""gRPC counts milliseconds."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What clients may take. Units: bytes and seconds, as the names say.

    ``body_bytes`` is of one request, as sent and as inflated; ``bodies_bytes`` of all that are on their way in at once.
    ``head_bytes`` and ``headers`` are of one request's head. ``tensors`` are the inputs that one request may name.
    ``connections`` are those of one protocol at once. ``head_s`` is the time that a head may take from its first byte,
    ``idle_s`` how long a connection may be without a request, ``body_s`` what a body may take beyond the time that
    ``body_bytes_per_s`` allows it, ``take_s`` how long a client may read nothing of its answer.
    """

    body_bytes: int = 64 * 2**20
    bodies_bytes: int = 512 * 2**20
    head_bytes: int = 16 * 2**10
    headers: int = 64
    json_depth: int = 16
    tensors: int = 64
    connections: int = 1000
    head_s: float = 10.0
    body_s: float = 10.0
    body_bytes_per_s: float = 16 * 2**10
    idle_s: float = 75.0
    take_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("body_bytes", "head_bytes", "headers", "json_depth", "tensors", "connections"):
            _require_count(getattr(self, name), MOST, name)
        _require_count(self.bodies_bytes, MOST_TOGETHER_BYTES, "bodies_bytes")
        require_positive(self.body_bytes_per_s, "body_bytes_per_s")
        for name in ("head_s", "body_s", "idle_s", "take_s"):
            require_positive(getattr(self, name), name)
            require_within(getattr(self, name), 0.0, LONGEST_S, name)


def _require_count(value: int, most: int, name: str) -> None:
    require_at_least_one(value, name)
    if value > most:
        raise ValueError(f"got {name} {value!r}, expected at most {most}")
