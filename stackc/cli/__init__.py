"""The command line. `main` is the console script ``stackc``; every command is a module of its own."""

from __future__ import annotations

from stackc.cli.app import app as app
from stackc.cli.app import main as main

__all__ = ["app", "main"]
