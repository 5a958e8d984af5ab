"""gevent and eventlet have replaced Python's own functions in a process that owns servers."""

from __future__ import annotations

import sys

import pytest

from ..conftest import REPOSITORY, Run
from ..helpers.django_runs import passes, with_runner
from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import MakeProject, header, passed, pytest_command

# What replaces all that the library can replace. gevent has two event loops.
GEVENT = "from gevent import monkey; monkey.patch_all()\n"
GEVENT_ON_LIBUV = f"import os; os.environ['GEVENT_LOOP'] = 'libuv-cffi'\n{GEVENT}"
EVENTLET = (
    "import warnings; warnings.simplefilter('ignore')\n"  # It warns of its own end of life.
    "import eventlet; eventlet.monkey_patch()\n"
)

# Two tests that need an empty cache, a green thread that uses it, and a child process.
TESTS = """\
import subprocess, threading
from django.core.cache import cache
from django.test import SimpleTestCase

class Tests(SimpleTestCase):
    def test_first(self):
        self.assertTrue(cache.add("key", 1))
        thread = threading.Thread(target=cache.set, args=("key", 2))
        thread.start(); thread.join()
        self.assertEqual(cache.get("key"), 2)
    def test_second(self):
        subprocess.run(["true"], check=True)
        self.assertTrue(cache.add("key", 1))
"""


@pytest.mark.parametrize(
    ("library", "patch"),
    [("gevent", GEVENT), ("gevent.libuv._corecffi", GEVENT_ON_LIBUV), ("eventlet", EVENTLET)],
    ids=["gevent", "gevent on libuv", "eventlet"],
)
def test_memcached_of_a_patched_owner_starts_stops_and_tells_its_end(
    library: str, patch: str, python: Run
) -> None:
    """gevent's loop waits for all children, at the latest when it has waited for one itself."""
    pytest.importorskip(library)
    result = python(
        f"{patch}"
        "import os, signal, subprocess, threading\n"
        "from tests.helpers.processes import wait_until_gone\n"
        "from sandbox import Memcached, ServerError\n"
        "def use():\n"
        "    with Memcached() as server:\n"
        "        server.client().set('key', 1)\n"
        "        server.flush()\n"
        "        assert server.items() == []\n"
        "        subprocess.run(['true'], check=True)\n"
        "threads = [threading.Thread(target=use) for _ in range(3)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "for stop_reaper in False, True:\n"
        "    with Memcached() as server:\n"
        "        pid, group = server.pid, os.getpgid(server.pid)\n"
        "        os.kill(pid, signal.SIGKILL)\n"
        "        if stop_reaper: os.kill(group, signal.SIGKILL)\n"
        "        wait_until_gone(pid)\n"
        "        subprocess.run(['true'], check=True)\n"
        "        print(server.exit_reason())\n"
        "        try: server.flush()\n"
        "        except ServerError: print('dead')\n"
        "    try: os.killpg(group, 0)\n"
        "    except ProcessLookupError: print('gone')\n",
        PYTHONPATH=str(REPOSITORY),
    )
    told = "was killed by signal 9 (Killed)\ndead\ngone\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, told * 2, "")


@pytest.mark.parametrize(
    ("library", "patch"), [("gevent", GEVENT), ("eventlet", EVENTLET)], ids=["gevent", "eventlet"]
)
def test_plugin_and_runner_of_a_patched_owner_run_tests(
    library: str, patch: str, make_project: MakeProject, main_memcached: MainMemcached, run: Run
) -> None:
    pytest.importorskip(library)
    project = with_runner(make_project(main_memcached.address))
    project.write("tests.py", TESTS)
    manage = (project.folder / "manage.py").read_text().splitlines(keepends=True)
    project.write("manage.py", "".join([manage[0], patch, *manage[1:]]))
    passes(project.manage("test"))

    arguments = pytest_command("--memcached-sandbox", "tests.py")[3:]
    script = f"{patch}import sys, pytest; sys.exit(pytest.main({arguments}))"
    result = run(sys.executable, "-c", script, cwd=project.folder)
    assert passed(result) == 2
    assert main_memcached.address in header(result)
    main_memcached.assert_untouched()
