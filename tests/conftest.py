"""What every test runs under."""

import os

from hypothesis import settings

# No deadline: a test never asserts a wall-clock time. In CI the examples are the same at every run.
settings.register_profile("poise", deadline=None)
settings.register_profile("poise-ci", deadline=None, derandomize=True)
settings.load_profile("poise-ci" if os.environ.get("CI") else "poise")
