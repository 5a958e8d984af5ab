"""Installs a distribution's own memcached into the user's data folder: without root.

apt verifies signatures and hashes, as for the system. Nothing is started, and nothing outside of
the data folder is changed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import posix
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..errors import InstallError
from . import installed
from .apt import Report, fetch
from .installed import Installed, command_in
from .version import ask_version

# Names of the folders in which memcacheds are, as mkdtemp makes them, and of links to them that are
# not in place yet.
STAGED = re.compile(rf"\.{installed.SUITE.pattern}-\w{{8}}(\.link)?")

# Seconds that a memcached may take to tell its version: this machine may be busy.
PATIENCE = 30

NO_PROGRAMS = "allows no programs, as if mounted with noexec: name another folder in XDG_DATA_HOME"


def install(suite: str, upgrade: bool, report: Report) -> tuple[Installed, bool]:
    """Installs the memcached of a suite, unless it is installed.

    :param upgrade: replace what is installed by a newer version, if there is one.
    :returns: what is installed, and whether it was now.
    :raises InstallError: it cannot be had; what was installed before is as it was.
    """
    with _data_folder() as data:
        _check_place(data / suite)
        old = installed.find(suite)
        if old and ask_version(old.command, PATIENCE).version is None:
            report(f"the memcached of {suite} in {data} does not run any more: replacing it ...")
            old = None
        if old and not upgrade:
            return old, False
        # If this is killed, the next one removes it.
        folder = Path(tempfile.mkdtemp(prefix=f".{suite}-", dir=data))
        folder.chmod(0o755)
        package = fetch(folder, suite, old.package if old else None, report)
        if old and package is None:
            return old, False
        (folder / "version").write_text(f"{_try_out(folder)} {package}\n", encoding="ascii")
        _put_in_place(folder, data / suite)
        return installed.read(str(data / suite)), True


def remove(suite: str) -> bool:
    """Removes the memcached of a suite, and returns whether there was one.

    :raises InstallError: it cannot be removed.
    """
    with _data_folder() as data:
        link = data / suite
        _check_place(link)
        if not link.is_symlink():
            return False
        link.unlink()
    return True


@contextmanager
def _data_folder() -> Iterator[Path]:
    """Makes the data folder, locks it, and removes at the end what no link in it leads to.

    :raises InstallError: another install has it, or it cannot be used.
    """
    if (name := installed.data_folder()) is None:
        raise InstallError("this user has no home: name a folder in XDG_DATA_HOME")
    path = Path(name)
    with _explained(path), ExitStack() as stack:
        made = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]
        stack.callback(_remove_empty, dict.fromkeys([path, *made]))
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(posix.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InstallError(
                f"another 'sandbox install' is at work in {path}: wait until it has ended"
            ) from None
        stack.callback(_remove_unlinked, path)
        yield path


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return  # Something is in it, or it was never made.


def _remove_unlinked(data: Path) -> None:
    """Removes the folders that a killed install has left, and those that were replaced."""
    paths = [*data.iterdir()]
    staged = [path for path in paths if STAGED.fullmatch(path.name)]
    linked = {os.readlink(path) for path in paths if path.is_symlink() and path not in staged}
    for path in staged:
        if path.name in linked:
            continue
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)


def _check_place(link: Path) -> None:
    """Raises InstallError if something else has the name of a suite."""
    if os.path.lexists(link) and not link.is_symlink():
        raise InstallError(f"{link} was not made by 'sandbox install': move it away")


def _try_out(folder: Path) -> str:
    """Returns the version that the memcached in a folder tells.

    :raises InstallError: it cannot be run.
    """
    version, complaint = ask_version(command_in(str(folder)), PATIENCE)
    if version is not None:
        return version.split()[0]  # "1.5.6 Ubuntu"
    # EPERM is the loader's.
    if complaint.endswith((os.strerror(errno.EACCES), os.strerror(errno.EPERM))):
        raise InstallError(f"{folder.parent} {NO_PROGRAMS}")
    raise InstallError(f"memcached was downloaded, but does not run here: {complaint}")


def _put_in_place(folder: Path, link: Path) -> None:
    """Leads the link of a suite to a folder, in one step."""
    new = folder.with_name(f"{folder.name}.link")
    new.symlink_to(folder.name)
    new.replace(link)


@contextmanager
def _explained(data: Path) -> Iterator[None]:
    """Turns errors of the data folder into an InstallError."""
    try:
        yield
    except OSError as error:
        raise InstallError(
            f"{error.filename or data} cannot be used: {error.strerror}; "
            "name a folder of yours in XDG_DATA_HOME"
        ) from error
