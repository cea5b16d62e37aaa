"""The rate table kept beside the profile, so that a service does not simulate its rates at each start.

The file is used only while its digest is that of the profile and of what the service file says about classes,
batches and modalities; else the table is made again. It may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from poise.domain.profile import Profile
from poise.domain.rate_table import RateTable
from poise.domain.service import Service
from poise.files.service_folder import ServiceFolder

SUFFIX = ".rates"
MAX_BYTES = 64 * 2**20
MADE_BY = 1
"""One more whenever rates are made differently."""


class RateCache:
    """The rate table of a service: read from a file, or built and kept.

    Nothing about the file is an error: one that cannot be used is made again, one that cannot be written is not
    written, and ``warn`` is told in a line.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path = path
        self._warn = warn

    @classmethod
    def beside_profile(cls, folder: ServiceFolder, warn: Callable[[str], None]) -> RateCache:
        """Return the cache of a service: ``profile.json.rates`` beside ``profile.json``.

        Raises:
            ConfigError: the profile's path leaves the service's folder.
        """
        return cls.of(folder, warn)

    @classmethod
    def of(cls, folder: ServiceFolder, warn: Callable[[str], None], cache: Path | None = None) -> RateCache:
        """Return the cache of a service, in a folder for all services or, without one, beside the profile.

        Raises:
            ConfigError: the profile's path leaves the service's folder.
        """
        return cls(folder.cache_file(SUFFIX, cache), warn)

    def table(self, service: Service, profile: Profile, build: Callable[[], RateTable]) -> RateTable:
        """Return the table that is kept, if it is that of this service and profile, else a new one, kept now."""
        digest = digest_of(service, profile)
        kept = self._read()
        if kept is not None and kept.digest == digest:
            return kept
        built = msgspec.structs.replace(build(), digest=digest)
        self._write(msgspec.msgpack.encode(built))
        return built

    def _read(self) -> RateTable | None:
        try:
            if self.path.is_symlink() or not self.path.is_file():
                return None
            if self.path.stat().st_size > MAX_BYTES:
                raise ValueError(f"it is larger than {MAX_BYTES} bytes")
            return msgspec.msgpack.decode(self.path.read_bytes(), type=RateTable)
        except (OSError, ValueError) as error:
            self._warn(f"{self.path.name} cannot be used and is made again: {_reason(error)}")
            return None

    def _write(self, data: bytes) -> None:
        """Write the file so that a reader finds the old one or the new one, and never half of either."""
        temporary: Path | None = None
        try:
            handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
            temporary = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), 0o644)
            temporary.replace(self.path)
        except OSError as error:
            self._warn(f"rates cannot be kept in {self.path.name}: {_reason(error)}")
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def digest_of(service: Service, profile: Profile) -> str:
    """Return the digest of all that a service's rates follow from."""
    digest = hashlib.sha256(b"%d;" % MADE_BY)
    parts = (
        profile.variants,
        tuple(service.modalities),
        tuple((name, variant.devices) for name, variant in service.variants.items()),
        sorted({each.latency_slo_ms for each in service.classes.values()}),
        service.scheduler.max_batch,
        service.guarantee.confidence,
    )
    digest.update(msgspec.msgpack.encode(parts))
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
