"""The directories of servers, as another process finds them."""

from __future__ import annotations

from pathlib import Path

from sandbox.registry.directories import ServerDirectory
from sandbox.registry.run_directory import RunDirectory


def server_directory(path: str | Path) -> ServerDirectory:
    """Return the directory of a server at a path."""
    path = Path(path)
    return ServerDirectory(RunDirectory(str(path.parent.parent)), path.name)
