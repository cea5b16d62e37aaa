"""The tiny service, whose files nobody may change; and a copy of it, without what servers keep beside its profiles."""

import shutil
from pathlib import Path

TINY = Path(__file__).parent / "data" / "tiny"
KEPT = shutil.ignore_patterns("*.frontiers*", "*.rates*", ".*")


def copy_of_tiny(target: Path) -> Path:
    """Copy the service as it is in the repository, whatever a server on a busy machine has kept there."""
    shutil.copytree(TINY, target, ignore=KEPT)
    return target
