"""Floor 4: drives the scheduler in real time, behind the Open Inference Protocol."""
