"""Installs the import hooks in every Python process of a run under ``sandbox exec``.

It stands before the sitecustomize that the process would have without it, and runs that too.
"""

import os
import sys


def _chain() -> None:
    """Imports the sitecustomize that this one has hidden, in its place."""
    ours = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        sys.modules["sitecustomize"] = ours


def _start() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    try:
        from _memcached_sandbox import hooks

        hooks.install_in_child()
    except BaseException as error:  # noqa: BLE001 - the site module would let it pass
        sys.stderr.write(f"sandbox: this Python cannot be sandboxed: {error!r}\n")
        sys.stderr.flush()
        os._exit(125)
    # The rest of the process has no use for the folder; its children have it in PYTHONPATH.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != folder]


_start()
_chain()
