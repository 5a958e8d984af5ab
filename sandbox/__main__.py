"""Runs the command ``sandbox`` for ``python -m sandbox``."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main(prog_name="sandbox")
