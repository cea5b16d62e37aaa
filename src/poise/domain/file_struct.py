"""The base of every value that a file spells out."""

from __future__ import annotations

import msgspec


class FileStruct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Frozen, unknown fields refused, defaults left out when it is written.

    Subclasses repeat ``frozen=True, kw_only=True``: the latter is not inherited.
    """
