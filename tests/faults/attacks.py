"""Plays another user of the machine: forged links, records and answers."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from sandbox import Memcached, Sandbox, Server, ServerError
from sandbox.registry.cleanup import remove_stale
from sandbox.registry.directories import Record, ServerDirectory
from sandbox.registry.run_directory import RunDirectory
from sandbox.run.summary import Summary, contents
from sandbox.system.processes import Identity

from ..helpers.rogues import counters, rogue
from ..helpers.users import ANOTHER_USER

# Puts a link, a directory of its own or a file where the run directory is to be, for ever.
PLANTER = """
import itertools, os, sys
path, target, user = sys.argv[1], sys.argv[2], int(sys.argv[3])
if os.geteuid() == 0:
    os.setresuid(user, user, user)
print("ready", flush=True)
for number in itertools.count():
    try:
        if number % 3 == 0:
            os.symlink(target, path)
        elif number % 3 == 1:
            os.mkdir(path, 0o700)
        else:
            open(path, "x").close()
    except OSError:
        pass  # It is there.
    for remove in (os.unlink, os.rmdir):
        try:
            remove(path)
        except OSError:
            pass  # It is not there, or is another user's.
"""


def plants(count: int) -> str:
    """Start and stop servers while another user plants what he can at the run directory's name."""
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        tempfile.TemporaryDirectory(dir="/tmp") as target,
    ):
        for path in (folder, target):
            os.chmod(path, 0o1777)
        os.environ["TMPDIR"], before = folder, os.environ["TMPDIR"]
        run_directory = f"{folder}/memcached-sandbox-{os.geteuid()}"
        command = [sys.executable, "-c", PLANTER, run_directory, target, str(ANOTHER_USER)]
        elsewhere = 0
        try:
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as planter:
                assert planter.stdout is not None
                planter.stdout.readline()
                for _ in range(count):
                    with Sandbox() as sandbox:
                        sandbox.resolve(["main:11211"])
                        (server,) = sandbox.servers
                        control = os.path.dirname(sandbox.control_directory.path)
                        assert os.path.dirname(server.directory) == control
                        elsewhere += not server.directory.startswith(folder)
                        assert os.listdir(target) == []
                planter.kill()
        finally:
            os.environ["TMPDIR"] = before
    return f"{count} starts against a planter: {elsewhere} elsewhere, 0 in what was planted"


def records(count: int, seed: int) -> str:
    """Poison the records of stale directories: no process is killed, and nothing else raised."""
    chance = random.Random(seed)
    kept = 0
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as victim:
        identity = Identity.of(victim.pid)._replace(started="1")
        text = Record(identity, identity, 64, "", None).text() + b"127.0.0.1:1\n"
        for _ in range(count):
            directory = ServerDirectory.create(None)
            path = Path(directory.path)
            directory.close_fds()
            (path / "record").write_bytes(_mutated(text, chance))
            remove_stale(RunDirectory(os.environ["TMPDIR"]))
            assert victim.poll() is None
            if path.exists():
                kept += 1
                subprocess.run(["rm", "-r", path], check=True)
        victim.kill()
    with Memcached():
        pass  # It removes the run directory with its own.
    return f"{count} poisoned records: {kept} directories kept, 0 processes killed"


def answers(count: int, seed: int) -> str:
    """Let a server answer nonsense: each use of it ends with a ServerError, or without an error."""
    chance = random.Random(seed)
    item = b"key=a%20b exp=-1 la=1 cas=1 fetch=no cls=1 size=50\r\n"
    errors = 0

    def answer(request: str) -> list[bytes]:
        line = item * 30 + b"END\r\n" if "metadump" in request else counters()
        return [_mutated(line, chance)]

    uses: list[Callable[[Server], object]] = [
        Server.stats,
        Server.items,
        Server.flush,
        contents,
        lambda server: Summary("--memory").add_servers([server]),
    ]
    with (
        patch("sandbox.server.ANSWER_TIMEOUT", 0.05),
        patch("_memcached_sandbox.protocol.DUMP_TIMEOUT", 0.05),
        rogue(answer) as address,
    ):
        for number in range(count):
            try:
                uses[number % len(uses)](Server(address))
            except ServerError as error:
                errors += 1
                if not str(error).isprintable():
                    raise AssertionError(f"{error!r} is not printable") from error
    return f"{count} answers of a rogue server: {errors} errors, each a ServerError"


def _mutated(text: bytes, chance: random.Random) -> bytes:
    """Return a text with some bytes changed, lost, doubled or put in."""
    changed = bytearray(text)
    for _ in range(chance.randint(0, 4)):
        place = chance.randrange(len(changed) + 1)
        piece = chance.choice(
            [b"", b"\n", b" ", b"9" * 30, b"-", b"\0", b"\x1b[2J", b"\xff", b"nan"]
        )
        changed[place : place + chance.choice([0, 1, len(piece), 40])] = piece
    return bytes(changed)
