"""The command line, for what it decides about recipes."""

from __future__ import annotations

from tests.cli.conftest import stackc

__all__ = ["stackc"]
