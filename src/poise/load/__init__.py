"""Floor 4: the open-loop load generator and its report."""
