"""`sandbox install` where it fails or has nothing to do; tests/test_bare_machine.py installs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from sandbox.server import apt, installed
from sandbox.server.binary import find_elsewhere
from sandbox.server.installed import own_suite

from ..conftest import Run
from ..helpers.cli import Cli, assert_one_line
from ..helpers.installs import (
    closed_port,
    garbage_proxy,
    install_by_hand,
    needs_apt,
    proxied,
    silent_proxy,
)
from ..helpers.processes import Result, script, without_coverage

GETTING_LISTS = "sandbox: getting the lists of packages of trixie ..."


def last_line(result: Result) -> str:
    assert (result.returncode, result.stdout) == (125, "")
    assert all(line.startswith("sandbox: ") for line in result.stderr.splitlines())
    return result.stderr.splitlines()[-1]


def nothing_is_left(data: Path) -> bool:
    return not data.parent.parent.exists()


@needs_apt
def test_memcached_of_the_system_is_enough(cli: Cli, data: Path) -> None:
    path = find_elsewhere()
    result = cli("install", "--json")
    assert result.stderr.startswith("sandbox: memcached 1.")
    assert result.stderr.endswith(f" is there, {path}: nothing to install.\n")
    entry = json.loads(result.stdout)
    assert (entry["command"], entry["suite"], entry["changed"]) == ([path], None, False)
    assert nothing_is_left(data)


@needs_apt
def test_installed_suite_is_not_installed_again(cli: Cli, data: Path) -> None:
    install_by_hand(data, "trixie")
    result = cli("install", "--suite", "trixie", "--json")
    assert result.returncode == 0
    assert result.stderr == (
        "sandbox: memcached 1.6.99, package 1.6.99-1 of trixie, is there, in "
        f"{data}: nothing to install.\n"
    )
    assert json.loads(result.stdout) == {
        "suite": "trixie",
        "version": "1.6.99",
        "package": "1.6.99-1",
        "command": [f"{data}/trixie/memcached"],
        "changed": False,
    }


@needs_apt
def test_remove_leaves_other_suites(cli: Cli, data: Path) -> None:
    for suite in ("sid", "trixie"):
        install_by_hand(data, suite)
    (data / ".kept").touch()  # not of this package
    result = cli("install", "--remove", "--suite", "buster")
    assert result.returncode == 0
    assert result.stderr.endswith(
        ": nothing to remove; there is that of sid, trixie, for --suite.\n"
    )
    assert cli("install", "--remove", "--suite", "sid").returncode == 0
    assert {path.name for path in data.iterdir()} == {"trixie", ".trixie-by_hand0", ".kept"}
    result = cli("install", "--remove", "--suite", "trixie", "--json")
    assert result.stderr == f"sandbox: the memcached of trixie is removed from {data}.\n"
    assert json.loads(result.stdout)["changed"] is True
    assert [path.name for path in data.iterdir()] == [".kept"]


@pytest.mark.slow
@needs_apt
@pytest.mark.parametrize("suite", [own_suite(), "trixie"])
def test_no_network_is_one_line_and_leaves_nothing(run: Run, data: Path, suite: str) -> None:
    line = last_line(run("sandbox", "install", "--suite", suite, **proxied(closed_port())))
    assert line.startswith(f"sandbox: cannot get the memcached of {suite}: Failed to fetch http")
    assert "Could not connect to 127.0.0.1" in line
    assert nothing_is_left(data)


@pytest.mark.slow
@needs_apt
@pytest.mark.parametrize("suite", [own_suite(), "trixie"])
def test_garbage_is_not_installed(run: Run, data: Path, suite: str) -> None:
    with garbage_proxy() as proxy:
        line = last_line(run("sandbox", "install", "--suite", suite, **proxied(proxy)))
    assert line.startswith(f"sandbox: cannot get the memcached of {suite}: ")
    assert "Clearsigned file isn't valid" in line
    assert nothing_is_left(data)


@pytest.mark.slow
@needs_apt
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_interrupted_upgrade_leaves_the_old_state(
    cli: Cli, data: Path, number: signal.Signals
) -> None:
    install_by_hand(data, "trixie")
    before = sorted(data.iterdir())
    with silent_proxy() as (proxy, listener):
        process = subprocess.Popen(
            ["sandbox", "install", "--suite", "trixie", "--upgrade"],
            env=without_coverage() | proxied(proxy),
            stderr=subprocess.PIPE,
            text=True,
        )
        listener.accept()[0].close()
        assert sorted(data.iterdir()) != before
        assert_one_line(
            cli("install", "--suite", "sid"), 125, f"another 'sandbox install' is at work in {data}"
        )
        process.send_signal(number)
        said = process.communicate()[1]
    status = -number if number == signal.SIGKILL else 128 + number
    assert (process.returncode, said.rstrip("\n")) == (status, GETTING_LISTS)
    if number == signal.SIGKILL:
        cli("install", "--suite", "trixie")
    assert sorted(data.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--upgrade", "--remove"], "Give either --upgrade or --remove."),
        (["--suite", "../x"], "--suite ../x: a suite has a name such as trixie or noble."),
        (["--suite", ""], "--suite : a suite has a name such as trixie or noble."),
        (["trixie"], "Got unexpected extra argument (trixie)"),
    ],
)
def test_wrong_usage_of_install_is_one_line(
    cli: Cli, data: Path, arguments: list[str], message: str
) -> None:
    assert_one_line(cli("install", *arguments), 2, message)
    assert nothing_is_left(data)


@needs_apt
@pytest.mark.parametrize("place", ["/proc", "/dev/null"])
def test_data_folder_that_cannot_be_made_is_one_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", place)
    message = f"{place}/memcached-sandbox cannot be used: "
    assert_one_line(cli("install", "--suite", "trixie"), 125, message)


@pytest.mark.parametrize(
    ("manager", "command"),
    [
        ("dnf", "'sudo dnf install memcached'"),
        ("apk", "'sudo apk add memcached'"),
        ("pacman", "'sudo pacman -S memcached'"),
        ("", "your system's package manager"),
    ],
)
def test_other_package_managers_are_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, manager: str, command: str
) -> None:
    if manager:
        script(tmp_path / manager, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert_one_line(
        cli("install"),
        125,
        f"'sandbox install' needs apt or Homebrew: install memcached with {command}",
    )
    assert_one_line(
        cli("install", "--suite", "trixie"), 2, "suites are those of apt, which is not here."
    )


def test_homebrew_that_installs_nothing_is_an_error(cli: Cli, without_memcached: Path) -> None:
    script(without_memcached / "brew", "#!/bin/sh\n")
    result = cli("install")
    assert result.returncode == 125
    assert result.stderr.endswith(
        "'brew install memcached' succeeded, but there is no memcached.\n"
    )


def test_homebrew_installs_its_own(cli: Cli, without_memcached: Path) -> None:
    """Homebrew itself cannot be had: a script stands for it."""
    memcached = without_memcached / "memcached"
    version = "#!/bin/sh\necho memcached 1.6.$(/bin/cat $0.minor)\n"
    script(memcached.with_name("new"), version)
    script(
        without_memcached / "brew",
        f'#!/bin/sh\necho "$@"; cd {without_memcached}\n'
        '[ "$1" = install ] && echo 98 >memcached.minor || echo 99 >memcached.minor\n'
        "/bin/cp new memcached\n",
    )
    result = cli("install", "--json")
    assert result.returncode == 0
    assert result.stderr == (
        "sandbox: running brew install memcached ...\ninstall memcached\n"
        f"sandbox: memcached 1.6.98 is there, {memcached}.\n"
    )
    assert json.loads(result.stdout)["changed"] is True
    result = cli("install")
    there = f"sandbox: memcached 1.6.98 is there, {memcached}: nothing to install.\n"
    assert (result.returncode, result.stderr) == (0, there)
    for changed in (True, False):
        result = cli("install", "--upgrade", "--json")
        assert (
            f"\nupgrade memcached\nsandbox: memcached 1.6.99 is there, {memcached}.\n"
            in result.stderr
        )
        assert json.loads(result.stdout)["changed"] is changed
    assert_one_line(
        cli("install", "--remove"),
        125,
        "Homebrew keeps memcached for all programs: run 'brew uninstall memcached'",
    )
    assert memcached.exists()


@needs_apt
def test_memcached_that_does_not_run_any_more_is_replaced(run: Run, data: Path) -> None:
    """As when a library of the system was removed. Here the archive cannot be reached."""
    folder = install_by_hand(data, "trixie")
    (folder / "bin/memcached").unlink()
    failed = run("sandbox", "exec", "--memcached", "trixie", "true")
    assert (
        f"{data}/trixie/memcached cannot be executed (No such file or directory): " in failed.stderr
    )
    remedy = "run 'sandbox install --suite trixie' to replace it"
    assert remedy in failed.stderr
    diagnosis = run("sandbox", "doctor", MEMCACHED_SANDBOX_BINARY="trixie").stdout
    assert f"-> {remedy}\n" in diagnosis
    assert diagnosis.count(remedy) == 1
    result = run("sandbox", "install", "--suite", "trixie", **proxied(closed_port()))
    assert result.returncode == 125
    assert result.stderr.startswith(
        f"sandbox: the memcached of trixie in {data} does not run any more: replacing it ...\n"
    )


@needs_apt
def test_name_of_a_suite_that_is_taken_is_left(cli: Cli, data: Path) -> None:
    (data / "trixie").mkdir(parents=True)
    for options in ([], ["--remove"]):
        assert_one_line(
            cli("install", "--suite", "trixie", *options),
            125,
            f"{data}/trixie was not made by 'sandbox install': move it away",
        )
    assert [path.name for path in data.iterdir()] == ["trixie"]


@needs_apt
def test_link_that_is_not_in_place_yet_keeps_nothing(cli: Cli, data: Path) -> None:
    """As an install leaves it that is killed between two steps."""
    folder = install_by_hand(data, "trixie")
    (data / "trixie").rename(data / f"{folder.name}.link")
    cli("install", "--suite", "sid", "--remove")
    assert not data.exists()


@needs_apt
def test_user_without_a_home_has_to_name_a_folder(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    message = "this user has no home: name a folder in XDG_DATA_HOME"
    assert_one_line(cli("install", "--suite", "trixie"), 125, message)
    assert installed.find("trixie") is None
    assert installed.installed() == []
    assert [*tmp_path.iterdir()] == []


@needs_apt
@pytest.mark.parametrize(
    ("room", "message"),
    [
        (0, "apt-get has stopped: try it again"),
        (
            1 << 62,
            "the disk of {data} is full: free some space, or name a folder on another one in ",
        ),
    ],
    ids=["with room", "without room"],
)
def test_program_that_has_stopped_is_ended(
    cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, message: str
) -> None:
    """As apt-get 2.6 does if the disk is full, even if some is free again afterwards."""
    (tmp_path / "apt-get").write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 1000\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(apt, "LONGEST_IDLE", 0.5)
    monkeypatch.setattr(apt, "ROOM_OF_LISTS", room)
    result = cli("install", "--suite", "sid")
    assert result.returncode == 125
    assert last_line(result).startswith(f"sandbox: {message.format(data=data)}")
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert nothing_is_left(data)


@needs_apt
def test_source_of_another_suite_is_where_this_system_has_its_own(tmp_path: Path) -> None:
    """A mirror, and what corrects the suite, even if there are no lists of packages yet."""
    sources = tmp_path / "sources.list"
    own = own_suite()
    sources.write_text(
        f"deb http://mirror.example.org/debian {own} main\n"
        f"deb http://mirror.example.org/corrections {own}-security main\n"
    )
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{sources}"; Dir::Etc::sourceparts "-"; Dir::State "{tmp_path}";\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
        lines = apt._sources_of("buzz", tmp_path).splitlines()
    assert [line.split("] ")[1] for line in lines] == [
        "http://mirror.example.org/debian/ buzz main",
        "http://mirror.example.org/corrections/ buzz-security main",
    ]
