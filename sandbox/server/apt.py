"""Gets memcached, and the libraries that it lacks, from the archive of Debian or Ubuntu.

apt runs with lists of packages and a cache in a folder that is removed afterwards. Its sources,
keys, proxies and checks are those of the system.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import DiskFullError, InstallError
from ..system import deferred
from .binary import find_tool
from .installed import data_folder, own_suite

# Says what is being done, in a line.
Report = Callable[[str], None]

PACKAGE = "memcached"

# What apt-cache(8) prints of the libraries that a package needs. What else memcached's names, as
# adduser and perl, is for its service.
LIBRARY = re.compile(r"^ [ |](?:Pre)?Depends: (lib[^\s:]+)$", re.MULTILINE)

# The loader that an executable names, near its begin: PT_INTERP in elf(5).
LOADER = re.compile(rb"/[\w/.-]+/ld[\w.-]*\.so\.\d+")
BEGIN = 4096  # bytes

# The archive of a distribution, for a system whose own sources do not name its suite, and the keys
# with which it is signed, by mirrors too.
ARCHIVES = {
    "debian": ("http://deb.debian.org/debian/", "debian-archive-keyring.gpg"),
    "ubuntu": ("http://archive.ubuntu.com/ubuntu/", "ubuntu-archive-keyring.gpg"),
}

# Where a released suite gets its corrections.
POCKETS = ("security", "updates")

# Seconds that a server of packages may be silent.
SILENCE = 20

# Bytes below which a disk is full: apt-get 2.6 may wait for ever then.
LEAST_SPACE = 1024 * 1024

# Seconds after which an idle program has stopped: more than it waits for a silent server.
LONGEST_IDLE = 3 * SILENCE

# Bytes that lists of packages may take: what stops with less has removed what it could not write.
ROOM_OF_LISTS = 100 * 1024 * 1024

OPTIONS = [
    f"Acquire::http::Timeout={SILENCE}",
    f"Acquire::https::Timeout={SILENCE}",
    "Acquire::Retries=1",
    # No translations, and nothing that desktops index beside packages.
    "Acquire::Languages=none",
    "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
    "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
    "Acquire::IndexTargets::deb::CNF::DefaultEnabled=false",
    "Acquire::AllowInsecureRepositories=false",
    "APT::Get::AllowUnauthenticated=false",
    # As root, apt fetches as the user _apt, who may not write to the data folder.
    "APT::Sandbox::User=root",
]

# Lines of apt that only repeat that others are errors.
VAGUE = ("Some index files failed", "Unable to fetch some archives", "The repository")

# What apt says of a suite that an archive does not have.
NO_SUITE = "does not have a Release file"


def fetch(folder: Path, suite: str, known: str | None, report: Report) -> str | None:
    """Unpacks a suite's memcached and its libraries, as `installed` describes the folder.

    If this system runs the suite, only those libraries are unpacked that it lacks. Else all are.

    :param folder: an empty one.
    :param known: the version of the package that is there. New lists are got to compare it.
    :returns: the version of the package; None if it is not newer than the known one.
    :raises InstallError: it cannot be had.
    """
    apt = _Apt(folder / "apt")
    of_system = suite == own_suite()
    if of_system and known is None:
        try:
            return _fetch(apt, folder, suite, known, report)
        except DiskFullError:
            raise
        except InstallError as error:
            report(f"{error}: getting new lists of packages ...")
            shutil.rmtree(apt.folder)
            apt = _Apt(folder / "apt")
    else:
        report(f"getting the lists of packages of {suite} ...")
    apt.use_own_lists(None if of_system else _sources_of(suite, folder))
    return _fetch(apt, folder, suite, known, report)


def _fetch(apt: _Apt, folder: Path, suite: str, known: str | None, report: Report) -> str | None:
    version = apt.version(suite)
    if known and not _is_newer(version, known, folder):
        return None
    present = _packages_of_system(folder) if suite == own_suite() else set()
    packages = [PACKAGE, *(name for name in apt.libraries() if name not in present)]
    report(f"downloading {', '.join(packages)} of {suite} ...")
    root = apt.unpack(packages)
    _arrange(root, folder)
    shutil.rmtree(apt.folder)
    return version


def _sources_of(suite: str, folder: Path) -> str:
    """Returns the lines of a list of sources for a suite, from where this system has its own."""
    system = platform.freedesktop_os_release()
    names = [system.get("ID", ""), *system.get("ID_LIKE", "").split()]
    known = next((ARCHIVES[name] for name in names if name in ARCHIVES), None)
    if known is None:
        name = system.get("NAME", "this system")
        raise InstallError(f"no archive of {name} is known: --suite is for Debian and Ubuntu")
    archive, keys = known
    of_package_lists = ("Created-By: Packages", "Component: main")
    targets = _run(
        # There may be no lists yet.
        *("apt-get", "indextargets", "--no-release-info"),
        *("--format", "$(RELEASE) $(REPO_URI)", *of_package_lists),
        cwd=folder,
    )
    found = dict(line.split(" ", 1) for line in targets.splitlines())
    own = own_suite()
    addresses = {suite: found.get(own, archive)}
    for pocket in POCKETS:
        if address := found.get(f"{own}-{pocket}"):
            addresses[f"{suite}-{pocket}"] = address
    signed_by = f"[signed-by=/usr/share/keyrings/{keys}]"
    return "".join(f"deb {signed_by} {addresses[name]} {name} main\n" for name in addresses)


def _is_newer(version: str, known: str, folder: Path) -> bool:
    """Returns whether a version is newer: where a pocket was not reached, it may be older."""
    return _call("dpkg", "--compare-versions", version, "gt", known, cwd=folder).returncode == 0


def _packages_of_system(folder: Path) -> set[str]:
    """Returns the packages that are installed for this system's architecture."""
    native = _run("dpkg", "--print-architecture", cwd=folder).strip()
    # Lines such as "ii libc6 amd64".
    columns = "${db:Status-Abbrev} ${Package} ${Architecture}\n"
    listed = _run("dpkg-query", "-W", "-f", columns, cwd=folder)
    entries = [line.split() for line in listed.splitlines()]
    return {name for status, name, kind in entries if status[1] == "i" and kind in (native, "all")}


def _arrange(root: Path, folder: Path) -> None:
    """Moves the executable and the libraries from where packages have them, and links them."""
    (folder / "bin").mkdir()
    executable = (root / f"usr/bin/{PACKAGE}").rename(folder / f"bin/{PACKAGE}")
    for top in (root / "lib", root / "usr/lib"):
        for path in [*top.glob("*.so*"), *top.glob("*-linux-*/*.so*")]:
            if not path.is_symlink() or "/" not in os.readlink(path):
                (folder / "lib").mkdir(exist_ok=True)
                path.rename(folder / "lib" / path.name)
    link = folder / PACKAGE  # The kernel calls a process as its executable is called.
    if not (folder / "lib").exists():
        link.symlink_to(f"bin/{PACKAGE}")
    elif own := next((folder / "lib").glob("ld[-6]*.so.*"), None):
        link.symlink_to(f"lib/{own.name}")
    else:
        with executable.open("rb") as file:
            match = LOADER.search(file.read(BEGIN))
        if match is None:
            raise InstallError(f"memcached names no loader in its first {BEGIN} bytes")
        link.symlink_to(os.fsdecode(match[0]))


class _Apt:
    """Runs apt with the system's lists of packages, or with its own, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._options = [*OPTIONS, f"Dir::Cache={folder}/cache"]
        self._complaint = ""
        (folder / "cache/archives/partial").mkdir(parents=True)

    def use_own_lists(self, sources: str | None) -> None:
        """Gets new lists, for the system's sources or for others.

        A source that fails may be another one than memcached's: what it said is kept for later.
        """
        (self.folder / "state/lists/partial").mkdir(parents=True)
        self._options.append(f"Dir::State={self.folder}/state")
        # What the system has installed is no candidate.
        (self.folder / "state/status").touch()
        self._options.append(f"Dir::State::status={self.folder}/state/status")
        if sources is not None:
            (self.folder / "sources.list").write_text(sources)
            self._options.append(f"Dir::Etc::sourcelist={self.folder}/sources.list")
            self._options.append("Dir::Etc::sourceparts=-")
        self._complaint = _reason(self._call("apt-get", "update").stderr)

    def version(self, suite: str) -> str:
        """Returns the version of the newest memcached package.

        :raises InstallError: the lists have none.
        """
        about = self._call("apt-cache", "show", "--no-all-versions", PACKAGE).stdout
        match = re.search(r"^Version: (\S+)$", about, re.MULTILINE)
        if match is None:
            if NO_SUITE in self._complaint:
                raise InstallError(f"there is no suite {suite} for this system: {self._complaint}")
            reason = self._complaint or f"there is no package {PACKAGE}"
            raise InstallError(f"cannot get the {PACKAGE} of {suite}: {reason}")
        return match[1]

    def libraries(self) -> list[str]:
        """Returns the packages of the libraries that memcached needs, and that these need."""
        printed = self._run("apt-cache", "depends", "--recurse", "--important", PACKAGE)
        needed = {}
        for part in re.split(r"^(?=\S)", printed, flags=re.MULTILINE):
            name, _, depends = part.partition("\n")
            needed[name] = LIBRARY.findall(depends)
        found = [PACKAGE]
        for name in found:
            found += [library for library in needed.get(name, []) if library not in found]
        return found[1:]

    def unpack(self, packages: Sequence[str]) -> Path:
        """Downloads packages, and returns the folder of their files."""
        archives, root = self.folder / "archives", self.folder / "root"
        archives.mkdir()
        self._run("apt-get", "download", *packages, cwd=archives)
        for archive in archives.iterdir():
            _run("dpkg-deb", "-x", str(archive), str(root), cwd=archives)
        return root

    def _run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        return _checked(self._call(program, *arguments, cwd=cwd))

    def _call(
        self, program: str, *arguments: str, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        options = [word for option in self._options for word in ("-o", option)]
        return _call(program, "-q", *options, *arguments, cwd=cwd or self.folder)


def _run(program: str, *arguments: str, cwd: Path) -> str:
    return _checked(_call(program, *arguments, cwd=cwd))


def _checked(result: subprocess.CompletedProcess[str]) -> str:
    if result.returncode != 0:
        program = os.path.basename(result.args[0])
        reason = _reason(result.stderr) or f"exit code {result.returncode}"
        raise InstallError(f"{program} failed: {reason}")
    return result.stdout


def _disk_is_full(folder: Path, least: int = LEAST_SPACE) -> bool:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < least or (disk.f_files > 0 == disk.f_favail)


class _Progress:
    """Knows for how long a program has been idle."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._pid = pid
        self._folder = folder
        self._last: object = None
        self._since = time.monotonic()

    def idle_seconds(self) -> float:
        """Returns for how many seconds no file has changed its size, and no process has worked."""
        if (now := self._work()) != self._last:
            self._last, self._since = now, time.monotonic()
        return time.monotonic() - self._since

    def _work(self) -> object:
        import psutil

        try:
            process = psutil.Process(self._pid)
            spent = [each.cpu_times() for each in (process, *process.children(recursive=True))]
            sizes = {path: path.stat().st_size for path in self._folder.rglob("*")}
        except (psutil.Error, OSError):
            return object()  # A process or a file went away just now.
        # In tenths of a second: apt-get that waits wakes twice a second.
        return int(10 * sum(each.user + each.system for each in spent)), sizes


def _call(program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a program of apt to its end, in a process group that is killed with an exception.

    :raises InstallError: there is no such program, it has stopped, or the disk is full.
    """
    if (path := find_tool(program)) is None:
        raise InstallError(f"there is no {program} on PATH, which gets packages here")
    process = None
    try:
        with deferred():
            process = subprocess.Popen(
                [path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
                text=True,
                errors="replace",
                start_new_session=True,
            )
        is_full, progress = False, _Progress(process.pid, cwd)
        while not is_full:
            try:
                output, errors = process.communicate(timeout=1)
            except subprocess.TimeoutExpired:
                has_stopped = progress.idle_seconds() > LONGEST_IDLE
                is_full = _disk_is_full(cwd, ROOM_OF_LISTS if has_stopped else LEAST_SPACE)
                if has_stopped and not is_full:
                    raise InstallError(f"{program} has stopped: try it again") from None
            else:
                if os.strerror(errno.ENOSPC) not in errors:
                    return subprocess.CompletedProcess([path], process.returncode, output, errors)
                is_full = True
        raise DiskFullError(
            f"the disk of {data_folder()} is full: free some space, or name a folder on another "
            "one in XDG_DATA_HOME"
        )
    finally:
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _reason(stderr: str) -> str:
    """Returns the line that says most of why a program of apt has failed, or has warned."""
    lines = [re.sub(r"^(?:[EW]|\S+: error): ", "", line) for line in stderr.splitlines() if line]
    telling = [line for line in lines if not line.startswith(VAGUE)]
    return next(iter(telling or lines), "").rstrip(".")
