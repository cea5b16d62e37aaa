"""A service's folder on disk: its file, profile, models and arrays; no path leaves it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from poise.domain.decoding import decode_json, decode_yaml
from poise.domain.modalities import label_of
from poise.domain.profile import Profile, StageProfile
from poise.domain.service import Service, Variant
from poise.domain.workload import Workload
from poise.errors import ConfigError
from poise.files.regular import read_regular

SERVICE_FILE = "service.yaml"
MAX_TEXT_BYTES = 16 * 2**20


class ServiceFolder(msgspec.Struct, frozen=True):
    """An opened service: the decoded file and the folder that all its paths are relative to."""

    file: Path
    service: Service

    @property
    def root(self) -> Path:
        """The folder, resolved."""
        return self.file.parent

    def resolve(self, relative: str, field: str, *, must_exist: bool = True) -> Path:
        """Return the real path of a file named in the service file.

        Raises:
            ConfigError: an absolute path, one that leaves the folder (links included), or a missing file.
        """
        path = (self.root / relative).resolve()
        if Path(relative).is_absolute() or not path.is_relative_to(self.root):
            raise ConfigError(
                f"got path {relative!r}",
                file=self.file.name,
                field=field,
                expected="a path inside the service's folder",
            )
        if must_exist and not path.is_file():
            raise ConfigError(
                f"file {relative!r} is missing", file=self.file.name, field=field, expected="a file"
            )
        return path

    def cache_file(self, suffix: str, cache: Path | None = None) -> Path:
        """Return where something is kept that follows from the profile: beside it, or in a folder for all services.

        Raises:
            ConfigError: the profile's path leaves the service's folder.
        """
        profile = self.resolve(self.service.profile, "profile", must_exist=False)
        if cache is None:
            return profile.with_name(profile.name + suffix)
        return cache / f"{self.service.service}.{profile.name}{suffix}"

    def model_files(self, variant: Variant) -> dict[str, str]:
        """Return field -> relative path of every model file of a variant (none for python and emulated)."""
        if variant.runtime in ("python", "emulated"):
            return {}
        files = {f"encoders.{name}": path for name, path in variant.encoders.items()}
        if variant.head:
            files["head"] = variant.head
        files.update({f"graphs.{label}": path for label, path in variant.graphs.items()})
        return files

    def check_model_files(self) -> None:
        """Check that every model file is there.

        Raises:
            ConfigError: the first that is not, by its field.
        """
        for name, variant in self.service.variants.items():
            for field, path in self.model_files(variant).items():
                self.resolve(path, f"variants.{name}.{field}")
            if variant.module:
                self.resolve(variant.module, f"variants.{name}.module")

    def file_hashes(self) -> dict[str, str]:
        """Return relative path -> ``sha256:…`` of every model file and of the validation data."""
        paths = {p for v in self.service.variants.values() for p in self.model_files(v).values()}
        paths |= {v.module for v in self.service.variants.values() if v.module}
        if self.service.validation:
            paths.add(self.service.validation)
        return {path: _sha256(self.resolve(path, path)) for path in sorted(paths)}

    def load_profile(self) -> Profile:
        """Read the profile and hold it against the service file.

        Raises:
            ConfigError: no profile, a broken one, or one of another service or other variants or modalities.
        """
        path = self.resolve(self.service.profile, "profile", must_exist=False)
        if not path.is_file():
            raise ConfigError(
                f"profile {self.service.profile!r} is missing",
                file=self.file.name,
                field="profile",
                expected=f"a profile; run: poise profile {self.file.parent}",
            )
        profile = decode_json(_read(path), Profile, path.name)
        check_profile_matches(self.service, profile, path.name)
        return profile

    def stale_reasons(self, profile: Profile, hashes: dict[str, str] | None = None) -> list[str]:
        """Return why the profile may no longer hold: changed files (another machine is the profiler's to say).

        ``hashes`` are the files' own, where they are known already.
        """
        now = self.file_hashes() if hashes is None else hashes
        return [
            f"{path} has changed since it was profiled"
            for path, digest in profile.files.items()
            if path in now and now[path] != digest
        ]


def open_service(path: str | Path) -> ServiceFolder:
    """Open a service by its folder or its file.

    Raises:
        ConfigError: no such file, or one that does not decode.
    """
    given = Path(path)
    file = given / SERVICE_FILE if given.is_dir() else given
    if not file.is_file():
        raise ConfigError(
            f"no service file at {str(given)!r}", expected=f"a folder with {SERVICE_FILE}, or such a file"
        )
    text = _read_text(file)
    return ServiceFolder(file=file.resolve(), service=decode_yaml(text, Service, file.name))


def open_workload(path: str | Path) -> Workload:
    """Read a workload file.

    Raises:
        ConfigError: no such file, or one that does not decode.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"no workload file at {str(file)!r}", expected="a workload.yaml")
    return decode_yaml(_read_text(file), Workload, file.name)


def check_profile_matches(service: Service, profile: Profile, source: str) -> None:
    """Hold a profile against a service.

    Raises:
        ConfigError: another service's, a variant without a profile, an unknown modality, or a stage with other
            buckets than its inputs have.
    """
    if profile.service != service.service:
        raise ConfigError(
            f"got the profile of service {profile.service!r}",
            file=source,
            field="service",
            expected=repr(service.service),
        )
    profiled = {variant.name for variant in profile.variants}
    for name, variant in service.variants.items():
        if name not in profiled:
            raise ConfigError(
                f"variant {name!r} has no profile",
                file=source,
                field="variants",
                expected="one for each variant: profile again",
            )
        measured = profile.variant(name)
        known = set(service.modalities)
        for stage in measured.stages:
            unknown = sorted({name for names in stage.modality_sets for name in names} - known)
            if unknown:
                raise ConfigError(
                    f"stage {stage.name!r} of variant {name!r} names modality {unknown[0]!r}",
                    file=source,
                    field="variants.stages.modality_sets",
                    expected=f"modalities of {sorted(known)}",
                )
            _check_buckets(service, name, stage, source)
        for mode in measured.modes:
            if not set(mode.modalities) <= known:
                raise ConfigError(
                    f"variant {name!r} has a mode {mode.label!r}",
                    file=source,
                    field="variants.modes",
                    expected=f"modalities of {sorted(known)}",
                )
        declared = declared_sets(service, variant)
        labels = {mode.label for mode in measured.modes}
        missing = sorted(declared - labels) if variant.runtime != "emulated" else []
        if missing:
            raise ConfigError(
                f"variant {name!r} has no mode for {missing}",
                file=source,
                field="variants.modes",
                expected="every modality set: profile again",
            )


def _check_buckets(service: Service, variant: str, stage: StageProfile, source: str) -> None:
    """Hold a stage's buckets against those of the inputs that it takes, which its name says.

    A stage of an emulated variant may have none, and takes all inputs where it has another name than modalities.

    Raises:
        ConfigError: it was measured at others.
    """
    emulated = service.variants[variant].runtime == "emulated"
    names = stage.name.split("+")
    if set(names) <= set(service.modalities):
        declared = service.buckets_of(names)
    else:
        declared = service.buckets_of(service.modalities) if emulated else ()
    measured = stage.buckets
    if measured == declared or (emulated and not measured):
        return
    there, here = (", ".join(map(str, buckets)) or "none" for buckets in (measured, declared))
    raise ConfigError(
        f"stage {stage.name!r} of variant {variant!r} was measured at buckets {there}",
        file=source,
        field="variants.stages.latency.bucket",
        expected=f"buckets {here}: profile again",
    )


def declared_sets(service: Service, variant: Variant) -> set[str]:
    """Return the labels of the modality sets that a variant answers, as the service file declares them."""
    if variant.graphs:
        return {label_of(label.split("+")) for label in variant.graphs}
    if variant.modality_sets is not None:
        return {label_of(label.split("+")) for label in variant.modality_sets}
    index = service.modality_index
    return {index.label(mask) for mask in index.every_set()}


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_TEXT_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=path.name) from None


def _read_text(path: Path) -> str:
    try:
        return _read(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text (byte {error.start})", file=path.name) from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"
