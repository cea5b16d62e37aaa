"""What every test runs under."""

import os

from hypothesis import settings

# No deadline: a test never asserts a wall-clock time. The examples are the same at every run; EXPLORE=1 tries others.
settings.register_profile("poise", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("EXPLORE") else "poise")
