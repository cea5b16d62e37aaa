"""Floor 4: the scheduler in virtual time: event heap, service times, faults, replay, highest load."""
