"""Programs that connect to a memcached at an address of their own, whatever their environment."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .processes import script
from .users import ANOTHER_USER

# In C: an address in constant memory, a connect that does not block, and one by a child of vfork().
C_SOURCE = r"""
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct sockaddr_in memcached = {
    .sin_family = AF_INET,
    .sin_port = (PORT >> 8 & 255) | (PORT & 255) << 8,
    .sin_addr = {0x0100007f},
};

static int reach(int fd) {
    return connect(fd, (const struct sockaddr *)&memcached, sizeof memcached) ? errno : 0;
}

int main(int argc, char **argv) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), error, status;
    char answer[100];

    if (strcmp(argv[1], "vfork") == 0) {
        if (vfork() == 0)
            _exit(reach(fd));
        wait(&status);
        error = WEXITSTATUS(status);
    } else if (strcmp(argv[1], "nonblocking") == 0) {
        struct pollfd writable = {fd, POLLOUT, 0};
        socklen_t size = sizeof error;
        fcntl(fd, F_SETFL, O_NONBLOCK);
        error = reach(fd);
        if (error == EINPROGRESS) {
            poll(&writable, 1, 10000);
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        }
        fcntl(fd, F_SETFL, 0);
    } else {
        error = reach(fd);
    }
    if (error) {
        puts(strerror(error));
        return 1;
    }
    write(fd, "get canary\r\n", 12);
    write(1, answer, read(fd, answer, sizeof answer));
    return 0;
}
"""

# In a Python that knows of no run: -I leaves out PYTHONPATH.
PYTHON = """
import socket, sys
host, *timeout = sys.argv[1:]
try:
    connection = socket.create_connection((host, PORT), *map(float, timeout))
    connection.sendall(b"get canary\\r\\n")
    print(connection.recv(100))
except OSError as error:
    print(error)
"""

FAST_OPEN = """
import socket
connection = socket.socket()
try:
    connection.sendto(b"get canary\\r\\n", socket.MSG_FASTOPEN, ("127.0.0.1", PORT))
except OSError as error:
    try:
        connection.connect(("127.0.0.1", PORT))
        connection.sendall(b"get canary\\r\\n")
    except OSError as error:
        raise SystemExit(str(error))
print(connection.recv(100))
"""

ASYNCIO = """
import asyncio
async def ask():
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    except OSError as error:
        return error
    writer.write(b"get canary\\r\\n")
    answer = await reader.read(100)
    writer.close()
    return answer
print(asyncio.run(ask()))
"""

THREADS = """
import socket, threading
answers = []
def ask():
    try:
        with socket.create_connection(("127.0.0.1", PORT)) as connection:
            connection.sendall(b"get canary\\r\\n")
            answers.append(connection.recv(100))
    except OSError as error:
        answers.append(str(error))
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(answers) == 8 and len(set(answers)) == 1, answers
print(answers[0])
"""

C_CLIENT = """
try:
    import CLIENT
    print(CLIENT.Client(["127.0.0.1:PORT"]).get("canary"))
except Exception as error:
    print(error)
"""

PERL = (
    '$s = IO::Socket::INET->new("127.0.0.1:PORT") or do { print "$!"; exit };'
    ' print $s "get canary\\r\\nquit\\r\\n"; print <$s>'
)

NODE = (
    's = require("net").connect(PORT, "127.0.0.1");'
    ' s.on("data", data => { process.stdout.write(data); s.end() });'
    ' s.on("error", error => console.log(error.code)); s.write("get canary\\r\\n")'
)

BASH = (
    "exec 3<>/dev/tcp/127.0.0.1/PORT 2>/dev/null || { echo refused; exit; };"
    " printf 'get canary\\r\\nquit\\r\\n' >&3; cat <&3"
)
BASH_PATH = shutil.which("bash") or "bash"

CURL = "printf 'get canary\\r\\nquit\\r\\n' | curl -sS telnet://127.0.0.1:PORT 2>&1"


class Programs:
    """Scripts in a folder, by name: each prints what a memcached answers to "get canary"."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self._port = folder, port
        self.commands: dict[str, Sequence[str | Path]] = {}
        self._add("bash", "bash", "-c", BASH)
        self._add("bash without environment", "env", "-i", BASH_PATH, "-c", BASH)
        self._add("perl", "perl", "-MIO::Socket::INET", "-e", PERL)
        self._add("node", "node", "-e", NODE)
        if shutil.which("curl"):
            self._add("curl", "sh", "-c", CURL)
        python = self._write("connect.py", PYTHON)
        for name, *arguments in (
            ("python", "127.0.0.1"),
            ("python with a timeout", "127.0.0.1", "60"),
            ("python to all interfaces", "0.0.0.0"),
            ("python to a mapped address", "::ffff:127.0.0.1"),
            ("python by name", "localhost"),
        ):
            self._add(name, sys.executable, "-I", python, *arguments)
        self._add("python without environment", "env", "-i", sys.executable, python, "127.0.0.1")
        for name, code in (("fastopen", FAST_OPEN), ("asyncio", ASYNCIO), ("threads", THREADS)):
            self._add(name, sys.executable, "-I", self._write(f"{name}.py", code))
        for name in ("pylibmc", "libmc"):
            if importlib.util.find_spec(name):
                code = C_CLIENT.replace("CLIENT", name)
                self._add(name, sys.executable, "-I", self._write(f"{name}_client.py", code))
        if compiled := self._compile():
            for name in ("blocking", "nonblocking", "vfork"):
                self._add(f"c, {name}", compiled, name)
            self._add("strace", "strace", "-f", "-o", os.devnull, compiled, "blocking")
            if os.geteuid() == 0:
                self._add("chroot", "chroot", "/", compiled, "blocking")

    @property
    def connections(self) -> int:
        """How many connections all of them make."""
        return len(self.commands) + 7  # of eight threads

    def all(self) -> Path:
        """Return a script that runs each, and prints a line with its name and what it printed."""
        lines = ["#!/bin/sh"]
        for name, command in self.commands.items():
            answer = f"{shlex.join(map(str, command))} 2>&1 | tr -d '\\r\\n'"
            lines.append(f"printf '%s: %s\\n' '{name}' \"$({answer})\"")
        return script(self._folder / "all", "\n".join([*lines, ""]))

    def as_another_user(self) -> list[str]:
        """Return the command of one that another user runs; root may do that."""
        user = str(ANOTHER_USER)
        bash = BASH.replace("PORT", str(self._port))
        return ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "bash", "-c", bash]

    def _add(self, name: str, program: str | Path, *arguments: str | Path) -> None:
        if shutil.which(program):
            words = map(str, (program, *arguments))
            self.commands[name] = [word.replace("PORT", str(self._port)) for word in words]

    def _write(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.write_text(text.replace("PORT", str(self._port)))
        return path

    def _compile(self) -> Path | None:
        if not (compiler := shutil.which("cc")):
            return None
        path, source = self._folder / "asks", self._write("asks.c", C_SOURCE)
        subprocess.run([compiler, "-o", path, source], check=True)
        return path
