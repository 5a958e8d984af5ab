"""Gets the memcached of a suite of Debian, such as trixie or sid, and keeps it: without root.

`PATH="$(python -m tests.helpers.debian_memcached sid):$PATH" python -m pytest` runs tests with it.
apt verifies what it downloads. It is kept in build/sid-memcached: remove that for a newer one.
memcached runs through its own C library, newer than this system's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

BUILD = Path(__file__).parents[2] / "build"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class CannotBeHadError(Exception):
    """This memcached cannot be had here. The message is the reason."""


def folder_of_command(suite: str) -> Path:
    """Return the folder of an executable that is called ``memcached``."""
    folder = BUILD / f"{suite}-memcached"
    if not folder.exists():
        for needed in ("apt-get", "dpkg-deb", KEYRING):
            if not (shutil.which(needed) or Path(needed).exists()):
                raise CannotBeHadError(f"{needed} is missing: this is no Debian")
        made = folder.with_suffix(".partial")
        shutil.rmtree(made, ignore_errors=True)
        _unpack(made, suite)
        made.rename(folder)
    return folder / "bin"


def _unpack(folder: Path, suite: str) -> None:
    archives, root = folder / "archives", folder / "root"
    for path in (folder / "apt/lists/partial", folder / "apt/archives/partial", archives, root):
        path.mkdir(parents=True)
    (folder / "apt/status").touch()
    source = f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {suite} main\n"
    (folder / "apt/sources.list").write_text(source)
    apt = [
        *("-o", f"Dir::Etc::sourcelist={folder}/apt/sources.list", "-o", "Dir::Etc::sourceparts=-"),
        *("-o", f"Dir::State={folder}/apt", "-o", f"Dir::State::status={folder}/apt/status"),
        *("-o", f"Dir::Cache={folder}/apt", "-o", "APT::Sandbox::User=root"),
    ]
    _run("apt-get", *apt, "-q", "-o", "Acquire::Languages=none", "update", cwd=folder)
    packages = _with_libraries("memcached", apt, folder)
    _run("apt-get", *apt, "-q", "download", *packages, cwd=archives)
    for archive in archives.iterdir():
        _run("dpkg-deb", "-x", str(archive), str(root), cwd=folder)
    shutil.rmtree(folder / "apt")
    shutil.rmtree(archives)
    _write_command(folder)


def _with_libraries(package: str, apt: list[str], folder: Path) -> list[str]:
    """Return a package and the libraries that it needs, and that these need."""
    packages = [package]
    for name in packages:
        depends = _run("apt-cache", *apt, "depends", "--important", name, cwd=folder)
        libraries = re.findall(r"^  Depends: (lib\S+)", depends, re.MULTILINE)
        packages += [library for library in libraries if library not in packages]
    return packages


def _write_command(folder: Path) -> None:
    """Write the command. It finds the rest by its own path, so its folder may be moved."""
    (loader,) = {path.resolve() for path in (folder / "root/usr/lib").rglob("ld-linux*.so.*")}
    libraries = loader.parent.relative_to(folder.resolve())
    # The kernel calls a process as its executable is called, and it is to be called memcached.
    (folder / "loader").mkdir()
    (folder / "loader/memcached").symlink_to(f"../{libraries}/{loader.name}")
    (folder / "bin").mkdir()
    command = folder / "bin/memcached"
    command.write_text(
        "#!/bin/sh\n"
        "folder=${0%/*}/..\n"
        f'exec "$folder/loader/memcached" --library-path "$folder/{libraries}" '
        '--argv0 memcached "$folder/root/usr/bin/memcached" "$@"\n'
    )
    command.chmod(0o755)


def _run(*command: str, cwd: Path) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = result.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise CannotBeHadError(f"{command[0]} failed: {last[0]}")
    return result.stdout


if __name__ == "__main__":
    (of_suite,) = sys.argv[1:]
    try:
        print(folder_of_command(of_suite))
    except CannotBeHadError as error:
        sys.exit(f"the memcached of Debian's {of_suite} cannot be had: {error}")
