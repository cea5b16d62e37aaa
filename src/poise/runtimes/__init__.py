"""Floor 3: how the stages of a variant are executed."""

from poise.runtimes.base import Measured, StagedRunner, Tensors, VariantRunner, gather
from poise.runtimes.opening import Resolve, open_staged, open_variant
from poise.runtimes.stages import HEAD_STAGE, mode_labels, stage_modalities, stages_of

__all__ = [
    "HEAD_STAGE",
    "Measured",
    "Resolve",
    "StagedRunner",
    "Tensors",
    "VariantRunner",
    "gather",
    "mode_labels",
    "open_staged",
    "open_variant",
    "stage_modalities",
    "stages_of",
]
