"""Floor 3: a service's folder on disk, opened strictly. The only place that reads the operator's files."""

from poise.files.arrays import LabelledItems, load_labelled
from poise.files.frontier_cache import FrontierCache
from poise.files.service_folder import (
    ServiceFolder,
    check_profile_matches,
    declared_sets,
    open_service,
    open_workload,
)

__all__ = [
    "FrontierCache",
    "LabelledItems",
    "ServiceFolder",
    "check_profile_matches",
    "declared_sets",
    "load_labelled",
    "open_service",
    "open_workload",
]
