"""Datahall: a self-hosted AI data centre whose every answer can be followed back to its evidence."""

__version__ = "0.1.0"

__all__ = ["__version__"]
