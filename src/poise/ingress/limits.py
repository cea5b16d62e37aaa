"""Every cap of the front ends, in one value."""

from __future__ import annotations

import msgspec

from poise.domain.quantities import require_at_least_one, require_positive


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
        for name in (
            "body_bytes",
            "bodies_bytes",
            "head_bytes",
            "headers",
            "json_depth",
            "tensors",
            "connections",
        ):
            require_at_least_one(getattr(self, name), name)
        for name in ("head_s", "body_s", "body_bytes_per_s", "idle_s", "take_s"):
            require_positive(getattr(self, name), name)
