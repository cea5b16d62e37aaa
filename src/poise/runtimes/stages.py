"""Which modality sets a variant answers, and which stages each of them uses, as the service file declares them."""

from __future__ import annotations

from poise.domain.modalities import label_of, names_of
from poise.domain.profile import WAY_STAGE
from poise.domain.service import Service
from poise.errors import ConfigError

HEAD_STAGE = "head"
"""Name of the stage that is the head of a variant with encoders."""


def mode_labels(service: Service, variant: str) -> tuple[str, ...]:
    """Return the labels of the modality sets that a variant answers, those of fewer modalities first."""
    declared = service.variants[variant]
    index = service.modality_index
    if declared.graphs:
        masks = [index.mask(names_of(label)) for label in declared.graphs]
    elif declared.modality_sets is not None:
        masks = [index.mask(names_of(label)) for label in declared.modality_sets]
    else:
        masks = list(index.every_set())
    return tuple(index.label(mask) for mask in sorted(masks, key=lambda mask: (mask.bit_count(), mask)))


def stages_of(service: Service, variant: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return (stage name, labels of the modality sets that use it) for every stage of a variant.

    Encoders: one stage for each modality that some set uses, by its name, and ``head``. Graphs: one stage for each
    modality set, by its label. An emulated variant has no stages here: they are in its profile.

    Raises:
        ConfigError: a stage would have the name of another.
    """
    declared = service.variants[variant]
    if declared.runtime == "emulated":
        return ()
    labels = mode_labels(service, variant)
    stages: list[tuple[str, tuple[str, ...]]]
    if declared.graphs:
        stages = [(label, (label,)) for label in labels]
        reserved = {WAY_STAGE}
    else:
        users = {name: tuple(s for s in labels if name in names_of(s)) for name in service.modalities}
        stages = [(name, sets) for name, sets in users.items() if sets]
        reserved = {WAY_STAGE, HEAD_STAGE}
        stages.append((HEAD_STAGE, labels))
    for name in service.modalities:
        if name in reserved:
            raise ConfigError(
                f"got modality {name!r}",
                field=f"modalities.{name}",
                expected=f"a name other than {' and '.join(sorted(reserved))}, which are stages of variant {variant!r}",
            )
    return tuple(stages)


def stage_modalities(service: Service, stage: str) -> tuple[str, ...]:
    """Return the modalities whose inputs a stage of ``stages_of`` takes; none for a head, which takes embeddings."""
    return (
        ()
        if stage == HEAD_STAGE
        else service.modality_index.members(service.modality_index.mask_of_label(stage))
    )


def label_in_order(label: str) -> str:
    """Return a label with its names sorted, as the keys of a service file need not be."""
    return label_of(names_of(label))
