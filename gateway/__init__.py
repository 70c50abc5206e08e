"""A Jupyter gateway that starts every kernel in a sandbox without a network."""

__version__ = "0.1.0"
