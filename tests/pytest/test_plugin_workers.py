"""Workers of pytest-xdist: each has its own servers."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from ..helpers.memcacheds import MainMemcached
from ..helpers.processes import wait_until_gone
from ..helpers.projects import PYMEMCACHE, Project, header, passed, pytest_command, summary
from ..helpers.suites import CLEAN_CACHE


@pytest.mark.parametrize(
    ("arguments", "workers"),
    [
        (["-n2"], 2),
        # -n does not count these workers.
        (["--dist=load", "--tx=popen", f"--tx=popen//python={sys.executable}"], 2),
    ],
)
def test_workers_have_their_own_servers(
    project: Project, arguments: list[str], workers: int
) -> None:
    for number in range(2):
        project.write(f"test_{number}.py", CLEAN_CACHE)
    result = project.pytest("-Werror", *arguments)
    assert passed(result) == 32
    # pytest-django loads settings in the controller as well, but nobody reads CACHES there.
    assert summary(result).endswith(f"in the fullest of {workers} servers")
    assert re.search(r"^672 gets \(90.5 % hits\), 672 sets,", summary(result))
    assert header(result) == "64 MB, on each worker"


def test_workers_that_each_run_all_tests(project: Project) -> None:
    project.write("test_it.py", CLEAN_CACHE)
    result = project.pytest("--dist=each", "--tx=2*popen")
    assert passed(result) == 32
    assert summary(result).startswith("672 gets (90.5 % hits), 672 sets,")


def test_controller_that_reads_caches_has_a_server(
    project: Project, main_memcached: MainMemcached
) -> None:
    """Until then it is refused the main memcached as later."""
    project.write(
        "conftest.py",
        "import os, socket\n"
        "import pytest\n"
        "def pytest_sessionstart(session):\n"
        "    if 'workerinput' in vars(session.config): return\n"
        "    from django.conf import settings\n"
        f"    host, port = {main_memcached.address!r}.split(':')\n"
        "    for _ in range(2):\n"
        "        with pytest.raises(ConnectionRefusedError, match='the sandbox refuses'):\n"
        "            socket.create_connection((host, port))\n"
        "        assert dir(settings).count('CACHES') == 1\n"
        "        from django.core.cache import cache\n"
        "        assert cache.add('key', 1) != cache.add('key', 1)\n"
        "        cache.clear()\n"
        f"        assert settings.CACHES['default']['LOCATION'] != {main_memcached.address!r}\n",
    )
    project.write("test_it.py", "def test(memcached): pass\n")
    result = project.pytest("-n1")
    assert passed(result) == 1
    assert "in the fullest of 2 servers" in result.stdout
    assert "refused 2 times" in result.stdout


def test_controller_that_configures_settings_starts_no_server(
    plain: Project, main_memcached: MainMemcached
) -> None:
    """Settings without a module, and overrides of them, defer CACHES in the same way."""
    caches = {"default": {"BACKEND": PYMEMCACHE, "LOCATION": main_memcached.address}}
    plain.write(
        "conftest.py",
        "from django.conf import settings\n"
        "from django.test import override_settings\n"
        "def pytest_configure(config):\n"
        f"    settings.configure(CACHES={caches!r}, APPEND_SLASH=False)\n"
        "    with override_settings(APPEND_SLASH=True):\n"
        "        assert settings.APPEND_SLASH\n"
        "        if 'READS' in config.invocation_params.args[-1]:\n"
        f"            assert {main_memcached.address!r} not in str(settings.CACHES)\n",
    )
    plain.write(
        "test_it.py",
        "def test_READS():\n"
        "    from django.core.cache import cache\n"
        "    assert cache.add('key', 1)\n",
    )
    result = plain.pytest("-n2", "--dist=each", "-Werror")
    assert passed(result) == 2
    assert summary(result).endswith("in the fullest of 2 servers")
    result = plain.pytest("-n2", "--dist=each", "-k", "READS")
    assert passed(result) == 2
    assert summary(result).endswith("in the fullest of 3 servers")


def test_child_of_a_controller_shares_its_server(project: Project) -> None:
    """Also one that was started, with an environment made, before the controller had any."""
    project.write(
        "child.py",
        "import django, sys\n"
        "django.setup()\n"
        "from django.core.cache import cache\n"
        "cache.add('count', 0)\n"
        "cache.incr('count')\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
        "print(cache.incr('count'), flush=True)\n",
    )
    project.write(
        "conftest.py",
        "import os, subprocess, sys\n"
        "def pytest_sessionstart(session):\n"
        "    if 'workerinput' in vars(session.config): return\n"
        "    child = subprocess.Popen([sys.executable, 'child.py'], env=dict(os.environ),\n"
        "        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)\n"
        "    assert child.stdout.readline() == 'ready\\n'\n"
        "    from django.core.cache import cache\n"
        "    assert cache.incr('count') == 2\n"
        "    assert child.communicate('')[0] == '3\\n'\n",
    )
    project.write("test_it.py", "def test(memcached): assert not memcached.items()\n")
    result = project.pytest("-n1", "-W", "error")
    assert passed(result) == 1
    assert "in the fullest of 2 servers" in result.stdout


def test_child_that_a_controller_forks_shares_its_server(project: Project) -> None:
    project.write(
        "conftest.py",
        "import os\n"
        "def pytest_sessionstart(session):\n"
        "    if 'workerinput' in vars(session.config): return\n"
        "    from django.core.cache import cache\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        os._exit(not cache.add('key', 'by the child'))\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n"
        "    assert cache.get('key') == 'by the child'\n",
    )
    project.write("test_it.py", "def test(memcached): pass\n")
    result = project.pytest("-n1")
    assert passed(result) == 1
    assert "1 get (100.0 % hits), 1 set," in result.stdout


@pytest.mark.parametrize("arguments", [["-nauto", "--pdb"], ["--tx=2*popen"]])
def test_session_that_xdist_does_not_distribute_has_a_server(
    project: Project, arguments: list[str]
) -> None:
    project.write(
        "test_it.py",
        "import threading\n"
        "def test():\n"
        "    assert [each.name for each in threading.enumerate()] == ['MainThread']\n",
    )
    result = project.pytest("--memcached-sandbox-strict", *arguments)
    assert passed(result) == 1
    assert " in place of " in header(result)


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_controller_with_green_threads_has_a_server(project: Project, library: str) -> None:
    """No thread of it could answer children, so it starts one at once."""
    if library == "gevent":
        patch = "from gevent import monkey; monkey.patch_all()"
    else:
        patch = "import eventlet; eventlet.monkey_patch()"
    main = f"{patch}; import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
    project.write("test_it.py", "def test(memcached): pass\n")
    result = subprocess.run(
        [sys.executable, "-c", main, *pytest_command("-n1")[3:]],
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert passed(result) == 1


def test_controller_without_django_starts_no_server(plain: Project) -> None:
    plain.write(
        "test_it.py",
        "import pytest\n"
        "@pytest.mark.parametrize('number', range(8))\n"
        "def test(memcached, number):\n"
        "    client = memcached.client()\n"
        "    for expected in range(1, 100):\n"
        "        client.add('key', 0, noreply=False)\n"
        "        assert client.incr('key', 1) == expected\n"
        "    client.close()\n",
    )
    result = plain.pytest("-n2")
    assert passed(result) == 8
    assert header(result) == "64 MB, on each worker"
    assert summary(result).endswith("in the fullest of 2 servers")


def test_workers_get_the_options(plain: Project) -> None:
    plain.write(
        "test_it.py",
        "def test(memcached): assert memcached.stats()['limit_maxbytes'] == str(8 << 20)\n",
    )
    assert passed(plain.pytest("-n1", "--memcached-sandbox-memory=8")) == 1


def test_killed_worker_takes_its_servers_along_and_is_replaced(project: Project) -> None:
    project.write(
        "test_it.py",
        "import os, signal\n"
        "from pathlib import Path\n"
        "def test_killed(memcached):\n"
        "    Path('pid').write_text(memcached.stats()['pid'])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "def test_other(memcached): pass\n",
    )
    result = project.pytest("-n1")
    assert "1 failed, 1 passed" in result.stdout
    assert "worker 'gw0' crashed" in result.stdout
    assert summary(result).startswith("0 gets, 0 sets")
    wait_until_gone(int((project.folder / "pid").read_text()))
