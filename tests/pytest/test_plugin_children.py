"""Child processes of a test: the servers they use, and the errors they get."""

from __future__ import annotations

import pytest

from ..helpers.projects import Project, passed, summary
from ..helpers.suites import CLEAN_CACHE


def test_children_of_a_test_share_its_cache(project: Project) -> None:
    project.write(
        "test_it.py",
        "import multiprocessing, subprocess, sys\n"
        "import pytest\n"
        "from django.core.cache import cache\n"
        "READ = 'from django.core.cache import cache; print(cache.get(\"key\"))'\n"
        "def read(pipe): pipe.send(cache.get('key'))\n"
        "@pytest.mark.parametrize('value', ['one', 'two'])\n"
        "def test_command(value):\n"
        "    assert cache.add('key', value)\n"
        "    output = subprocess.check_output([sys.executable, '-c', READ], text=True)\n"
        "    assert output == f'{value}\\n'\n"
        "@pytest.mark.parametrize('method', ['fork', 'spawn', 'forkserver'])\n"
        "def test_multiprocessing(method):\n"
        "    assert cache.add('key', method)\n"
        "    context = multiprocessing.get_context(method)\n"
        "    here, there = context.Pipe()\n"
        "    child = context.Process(target=read, args=[there])\n"
        "    child.start()\n"
        "    assert here.recv() == method\n"
        "    child.join()\n",
    )
    assert passed(project.pytest(DJANGO_SETTINGS_MODULE="settings")) == 5
    assert passed(project.pytest("-n2", DJANGO_SETTINGS_MODULE="settings")) == 5


def test_child_with_unknown_caches_ends_with_an_error(project: Project) -> None:
    project.write(
        "test_it.py",
        "import subprocess, sys\n"
        "SCRIPT = '''\n"
        "from django.conf import settings\n"
        "backend = 'django.core.cache.backends.memcached.PyMemcacheCache'\n"
        "settings.configure(CACHES={'default': {'BACKEND': backend, 'LOCATION': 'other:5'}})\n"
        "'''\n"
        "def test():\n"
        "    command = [sys.executable, '-c', SCRIPT]\n"
        "    result = subprocess.run(command, stderr=subprocess.PIPE, text=True)\n"
        "    assert 'sandbox: there is no server for other:5 in the sandbox' in result.stderr\n"
        "    assert result.returncode == 1\n",
    )
    assert passed(project.pytest()) == 1


def test_child_with_django_of_a_test_without_django(plain: Project) -> None:
    plain.write(
        "test_it.py",
        "import subprocess, sys\n"
        "SET = 'from django.core.cache import cache; cache.set(\"key\", 1)'\n"
        "def test(memcached):\n"
        "    subprocess.check_call([sys.executable, '-c', SET])\n"
        "    assert [item.key for item in memcached.items()] == [':1:key']\n"
        "def test_empty(memcached): assert memcached.items() == []\n",
    )
    assert passed(plain.pytest(DJANGO_SETTINGS_MODULE="settings")) == 2


def test_children_of_pytest_forked_flush_and_are_guarded(project: Project) -> None:
    project.write("test_nothing.py", "def test(): pass\n")
    if project.pytest("--forked", "-pno:memcached_sandbox", "-pno:django").returncode:
        pytest.skip("this pytest-forked does not go with this pytest")
    (project.folder / "test_nothing.py").unlink()
    project.write("test_it.py", CLEAN_CACHE)
    project.write(
        "test_reach.py",
        "import socket\n"
        "def test_reaches():\n"
        "    try: socket.create_connection(('127.0.0.1', 11211))\n"
        "    except OSError: pass\n"
        "def test_does_not(): pass\n",
    )
    result = project.pytest("--forked", "-Wdefault")
    assert "1 failed, 17 passed" in result.stdout, result.stdout
    assert "FAILED test_reach.py::test_reaches" in result.stdout
    assert "fork() may lead to deadlocks" not in result.stdout
    assert summary(result).startswith("336 gets (90.5 % hits), 336 sets")
