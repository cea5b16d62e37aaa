"""Floor 4: drives the scheduler in virtual time."""
