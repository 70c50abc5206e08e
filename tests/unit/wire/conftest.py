"""Settings of hypothesis for these tests."""

from hypothesis import settings

# No deadline per example: how long one takes says more about the machine's other work than about the code.
settings.register_profile("wire", deadline=None)
settings.load_profile("wire")
