"""The pytest plugin, in pytest runs of their own on projects of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

import pytest
from django.test import override_settings

from sandbox.server.options import OF_MEMCACHED, OPTIONS

from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import PYMEMCACHE, InProcess, MakeProject, Project, header, passed

ON = "--memcached-sandbox"


@pytest.fixture
def project(make_project: MakeProject, main_memcached: MainMemcached) -> Iterator[Project]:
    """A project on a main memcached, which must not be connected to once."""
    yield make_project(main_memcached.address)
    main_memcached.assert_untouched()


TEST_LOCATION = """
from django.conf import settings
from django.core.cache import cache
def test():
    location = settings.CACHES["default"]["LOCATION"]
    print(f"at {location}.")
    assert cache.add("key", "value")
test_again = test
"""


class TestSwitch:
    def test_on_by_a_line_of_configuration(self, project: Project) -> None:
        (project.folder / "pytest.ini").unlink()
        project.write("pyproject.toml", "[tool.pytest.ini_options]\nmemcached_sandbox = true\n")
        project.write("test_it.py", TEST_LOCATION)
        assert passed(project.pytest(DJANGO_SETTINGS_MODULE="settings")) == 2

    def test_on_by_an_option(self, project: Project) -> None:
        project.write("test_it.py", TEST_LOCATION)
        assert passed(project.pytest(ON)) == 2

    @pytest.mark.parametrize(
        ("ini", "arguments"), [("false", []), ("true", ["-p", "no:memcached_sandbox"])]
    )
    def test_off(
        self, project: Project, main_memcached: MainMemcached, ini: str, arguments: list[str]
    ) -> None:
        settings = (project.folder / "pytest.ini").read_text()
        project.write("pytest.ini", f"{settings}memcached_sandbox = {ini}\n")
        project.write(
            "test_it.py",
            "import os, sys\n"
            "from django.conf import settings\n"
            "def test(request):\n"
            "    print('at', settings.CACHES['default']['LOCATION'])\n"
            "    assert not any('_memcached_sandbox' in name for name in sys.modules)\n"
            "    assert not any(name.startswith('MEMCACHED_SANDBOX') for name in os.environ)\n"
            "    hooks = request.node.ihook.pytest_runtest_protocol.get_hookimpls()\n"
            "    assert not any('sandbox' in hook.plugin_name for hook in hooks)\n",
        )
        result = project.pytest("-s", *arguments)
        assert passed(result) == 1
        assert "memcached-sandbox:" not in result.stdout
        assert f"at {main_memcached.address}\n" in result.stdout

    def test_before_anything_of_django_is_loaded(
        self, make_project: MakeProject, main_memcached: MainMemcached
    ) -> None:
        """A client in a module, one in AppConfig.ready, and one in the settings themselves."""
        project = make_project(main_memcached.address)
        project.write("shop/__init__.py", "")
        project.write(
            "shop/apps.py",
            "from django.apps import AppConfig\n"
            "from django.core.cache import cache, caches\n"
            "module_level = caches['default']\n"
            "module_level.set('module', 1)\n"
            "class ShopConfig(AppConfig):\n"
            "    name = 'shop'\n"
            "    def ready(self): cache.set('ready', 1)\n",
        )
        settings = (project.folder / "settings.py").read_text()
        project.write("settings.py", settings + "INSTALLED_APPS = ['shop.apps.ShopConfig']\n")
        project.write(
            "test_it.py",
            "from django.core.cache import cache\n"
            "from shop.apps import module_level\n"
            "def test():\n"
            "    assert cache.get('module') == cache.get('ready') == 1\n"
            "    assert module_level.get('ready') == 1\n",
        )
        assert passed(project.pytest(ON)) == 1
        main_memcached.assert_untouched()

    def test_a_project_that_cannot_be_set_up_leaves_nothing(self, project: Project) -> None:
        """By then its settings have been loaded, and its servers are there."""
        settings = (project.folder / "settings.py").read_text()
        project.write("settings.py", settings + "INSTALLED_APPS = ['missing']\n")
        project.write("test_it.py", TEST_LOCATION)
        result = project.pytest(ON)
        assert result.returncode == 1
        assert "No module named 'missing'" in result.stderr

    def test_named_by_a_conftest_only(self, project: Project) -> None:
        project.write("conftest.py", "pytest_plugins = ['sandbox.pytest']\n")
        ini = (project.folder / "pytest.ini").read_text()
        project.write("pytest.ini", ini + "memcached_sandbox = true\n")
        project.write("test_it.py", TEST_LOCATION)
        result = project.pytest("-p", "django", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
        assert passed(result) == 2

    def test_django_without_pytest_django(self, project: Project) -> None:
        project.write("test_it.py", TEST_LOCATION)
        result = project.pytest(ON, "-p", "no:django", "-o", "DJANGO_SETTINGS_MODULE=",
                                DJANGO_SETTINGS_MODULE="settings")  # fmt: skip
        assert passed(result) == 2

    def test_django_that_is_configured_in_a_conftest(
        self, project: Project, main_memcached: MainMemcached
    ) -> None:
        caches = {"default": {"BACKEND": PYMEMCACHE, "LOCATION": main_memcached.address}}
        project.write("pytest.ini", "[pytest]\n")
        project.write(
            "conftest.py",
            "from django.conf import settings\n"
            f"def pytest_configure(): settings.configure(CACHES={caches})\n",
        )
        project.write("test_it.py", TEST_LOCATION)
        assert passed(project.pytest(ON)) == 2

    def test_django_that_was_configured_before_us(
        self, project: Project, main_memcached: MainMemcached
    ) -> None:
        """By a plugin that is loaded early, and that has kept a backend."""
        project.write("pytest.ini", "[pytest]\n")
        project.write(
            "early.py",
            "from django.conf import settings\n"
            f"caches = {{'default': {{'BACKEND': {PYMEMCACHE!r}, "
            f"'LOCATION': {main_memcached.address!r}}}}}\n"
            "settings.configure(CACHES=caches)\n"
            "from django.core.cache import cache\n"
            "cache.__class__\n",
        )
        project.write("test_it.py", TEST_LOCATION)
        assert passed(project.pytest(ON, "-p", "early")) == 2

    def test_without_django(self, plain: Project) -> None:
        plain.write(
            "test_it.py",
            "import sys\n"
            "def test(memcached, memcached_sandbox):\n"
            "    assert memcached_sandbox == {}\n"
            "    client = memcached.client()\n"
            "    assert client.add('key', 'value', noreply=False)\n"
            "    client.close()\n"
            "    assert not [name for name in sys.modules if name.startswith('django.')]\n"
            "test_again = test\n",
        )
        result = plain.pytest("-W", "error")
        assert passed(result) == 2
        assert header(result) == "64 MB, started when it is used"

    def test_without_django_and_without_use(self, plain: Project) -> None:
        """No server is started, and the main memcached is guarded all the same."""
        plain.write(
            "test_it.py",
            "import socket\n"
            "def test_port():\n"
            "    try: socket.create_connection(('127.0.0.1', 11211), timeout=1)\n"
            "    except OSError: pass\n"
            "def test(): pass\n",
        )
        result = plain.pytest()
        assert "1 failed, 1 passed" in result.stdout
        assert "gets" not in result.stdout


# What each option does, as the servers themselves tell.
LIMITS = """
import os
def test(memcached):
    settings, stats = memcached.stats("settings"), memcached.stats()
    print(int(settings["maxbytes"]) >> 20, settings["item_size_max"], stats["threads"], "limits")
    print(settings["maxconns"], settings["cas_enabled"], "further")
    assert memcached.address.startswith("unix:") is bool(os.environ.get("UNIX"))
"""

OF_SERVERS = {
    "memory": "8M",
    "max_item_size": "2m",
    "threads": "3",
    "max_connections": "77",
    "unix": "true",
    "arg": "-C",
    "start_timeout": "60",
}


class TestOptions:
    @pytest.fixture(autouse=True)
    def unix(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("UNIX", raising=False)

    def test_on_the_command_line(
        self, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("UNIX", "1")
        in_process.write("test_it.py", LIMITS)
        flags = [
            f"--memcached-sandbox-{name.replace('_', '-')}"
            + ("" if name == "unix" else f"={value}")
            for name, value in OF_SERVERS.items()
        ]
        result = in_process.pytest("-s", *flags)
        assert passed(result) == 1
        assert "8 2097152 3 limits\n77 no further\n" in result.stdout

    def test_in_the_ini_file(self, in_process: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UNIX", "1")
        in_process.write("test_it.py", LIMITS)
        lines = [f"memcached_sandbox_{name} = {value}\n" for name, value in OF_SERVERS.items()]
        ini = (in_process.folder / "pytest.ini").read_text() + "".join(lines)
        in_process.write("pytest.ini", ini)
        result = in_process.pytest("-s")
        assert passed(result) == 1
        assert "8 2097152 3 limits\n77 no further\n" in result.stdout

    def test_in_the_environment(
        self, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("UNIX", "1")
        in_process.write("test_it.py", LIMITS)
        for option in OF_MEMCACHED:
            if option.word in OF_SERVERS:
                monkeypatch.setenv(option.variable, OF_SERVERS[option.word])
        result = in_process.pytest("-s")
        assert passed(result) == 1
        assert "8 2097152 3 limits\n77 no further\n" in result.stdout

    def test_command_line_then_environment_then_ini_file(
        self, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_process.write("test_it.py", LIMITS)
        monkeypatch.setenv("MEMCACHED_SANDBOX_MEMORY", "7")
        result = in_process.pytest("-s", "-o", "memcached_sandbox_memory=5")
        assert "7 1048576 1 limits" in result.stdout
        result = in_process.pytest(
            "-s", "-o", "memcached_sandbox_memory=5", "--memcached-sandbox-memory=6"
        )
        assert "6 1048576 1 limits" in result.stdout

    def test_as_arguments_of_the_factory(self, in_process: InProcess) -> None:
        in_process.write(
            "test_it.py",
            "from contextlib import closing\n"
            + LIMITS.replace("def test(memcached):", "def check(memcached):")
            + "def test_given(memcached_factory):\n"
            "    first = memcached_factory(memory_mb=8, max_item_size=2 << 20, threads=3)\n"
            "    check(first)\n"
            "    second = memcached_factory()\n"
            "    with closing(first.client()) as one, closing(second.client()) as other:\n"
            "        one.set('key', 'value')\n"
            "        assert other.get('key') is None\n"
            "    check(second)\n"
            "def test_unix(memcached_factory, monkeypatch):\n"
            "    monkeypatch.setenv('UNIX', '1')\n"
            "    check(memcached_factory(unix_socket=True))\n",
        )
        result = in_process.pytest("-s", "--memcached-sandbox-memory=7")
        assert passed(result) == 2
        assert re.findall(r"(\d+ \d+ \d+) limits", result.stdout) == [
            "8 2097152 3",
            "7 1048576 1",
            "7 1048576 1",
        ]

    def test_the_factory_leaves_nothing(self, plain: Project) -> None:
        plain.write(
            "test_it.py",
            "import psutil, pytest\n"
            "@pytest.mark.parametrize('number', range(2))\n"
            "def test(memcached_factory, number):\n"
            "    children = psutil.Process().children()\n"
            "    assert [child.name() for child in children] == []\n"
            "    memcached_factory()\n",
        )
        assert passed(plain.pytest()) == 2

    @override_settings(
        CACHES={
            "default": {"BACKEND": PYMEMCACHE, "LOCATION": "main"},
            "dead": {"BACKEND": PYMEMCACHE, "LOCATION": "nowhere:1"},
        }
    )
    def test_exclude(self, in_process: InProcess) -> None:
        in_process.write(
            "test_it.py",
            "from django.conf import settings\n"
            "def test(memcached_sandbox, memcached):\n"
            "    assert settings.CACHES['dead']['LOCATION'] == 'nowhere:1'\n"
            "    assert [*memcached_sandbox] == ['default']\n"
            "    assert memcached_sandbox['default'][0].address == memcached.address\n"
            "    assert settings.CACHES['default']['LOCATION'] == memcached.address\n",
        )
        assert passed(in_process.pytest("--memcached-sandbox-exclude=dead")) == 1
        assert passed(in_process.pytest("-o", "memcached_sandbox_exclude=dead")) == 1
        result = in_process.pytest("--memcached-sandbox-exclude=daed")
        assert result.returncode == 4
        assert "the aliases to exclude name 'daed', but the aliases in CACHES are" in result.stderr

    @pytest.mark.parametrize("where", ["--memcached-sandbox-", "-omemcached_sandbox_"])
    def test_guard(self, in_process: InProcess, where: str) -> None:
        in_process.write(
            "test_it.py",
            "import socket\n"
            "def test_port():\n"
            "    try: socket.create_connection(('127.0.0.1', 11211), timeout=1)\n"
            "    except OSError: pass\n"
            "def test_name():\n"
            "    try: socket.create_connection(('localhost', 5), timeout=1)\n"
            "    except OSError: pass\n",
        )
        assert "1 failed, 1 passed" in in_process.pytest().stdout
        assert "2 failed" in in_process.pytest(f"{where}guard=localhost:5").stdout
        assert passed(in_process.pytest(f"{where}guard=off")) == 2

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("memory=many", "must be a whole number of MB, or a size such as 512m or 1g"),
            ("memory=0", "must be 1 or more"),
            ("memory=1", "memcached needs at least 2 MB"),
            ("max-item-size=2x", "must be a size: bytes, or such as 512k or 2m"),
            ("max-item-size=40m", "must be at most 32 MB, half of memcached_sandbox_memory=64"),
            ("threads=-1", "must be 1 or more"),
            ("start-timeout=soon", "must be a number of seconds"),
            ("arg=-d", "-d cannot be passed to memcached: a daemon could not be ended"),
            ("arg=-m5", "-m cannot be passed to memcached: use memcached_sandbox_memory"),
            ("flush=tests", "must be one of test, class, module, session, never"),
            ("guard=nowhere:port", "'nowhere:port' is not HOST:PORT or unix:/PATH"),
        ],
    )
    def test_out_of_range(
        self,
        in_process: InProcess,
        monkeypatch: pytest.MonkeyPatch,
        option: str,
        message: str,
    ) -> None:
        in_process.write("test_it.py", TEST_LOCATION)
        flag = f"--memcached-sandbox-{option}"
        result = in_process.pytest(flag)
        assert result.returncode == 4
        assert result.stderr.startswith(f"ERROR: {flag}: {message}")
        assert len(result.stderr.splitlines()) == 2  # and an empty one
        name, _, value = option.partition("=")
        name = f"memcached_sandbox_{name.replace('-', '_')}"
        result = in_process.pytest("-o", f"{name}={value}")
        assert result.returncode == 4
        where = f"{in_process.folder}/pytest.ini"
        assert result.stderr.startswith(f"ERROR: {name} = {value} in {where}: {message}")
        if not name.endswith("guard"):
            word = name.removeprefix("memcached_sandbox_")
            (variable,) = (option.variable for option in OPTIONS if option.word == word)
            monkeypatch.setenv(variable, value)
            result = in_process.pytest()
            assert result.returncode == 4
            assert result.stderr.startswith(f"ERROR: {variable}={value}: {message}")

    @pytest.mark.parametrize("name", ["memcached_sandbox", "memcached_sandbox_strict"])
    def test_switch_that_is_mistyped(self, in_process: InProcess, name: str) -> None:
        in_process.write("test_it.py", TEST_LOCATION)
        result = in_process.pytest("-o", f"{name}=maybe")
        assert result.returncode == 4
        where = f"{in_process.folder}/pytest.ini"
        assert result.stderr == f"ERROR: {name} in {where}: invalid truth value 'maybe'\n\n"

    def test_strict(self, in_process: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
        """A connection that no test is to blame for fails the session, too."""
        in_process.write(
            "test_it.py",
            "import socket\n"
            "try: socket.create_connection(('127.0.0.1', 11211), timeout=1)\n"
            "except OSError: pass\n"
            "def test(): pass\n",
        )
        for flags, code in ([], 0), (["--memcached-sandbox-strict"], 1):
            result = in_process.pytest(*flags)
            assert result.returncode == code
            assert "connecting to the main memcached was refused once" in result.stdout
        monkeypatch.setenv("MEMCACHED_SANDBOX_STRICT", "yes")
        assert in_process.pytest().returncode == 1
        monkeypatch.setenv("MEMCACHED_SANDBOX_STRICT", "maybe")
        result = in_process.pytest()
        assert result.returncode == 4
        assert result.stdout == ""  # before any test has run
        said = "ERROR: MEMCACHED_SANDBOX_STRICT=maybe: must be true or false\n"
        assert result.stderr.startswith(said)

    def test_guard_on_the_command_line_comes_before_no_guard_in_the_environment(
        self, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_process.write(
            "test_it.py",
            "import socket\n"
            "def test():\n"
            "    try: socket.create_connection(('127.0.0.1', 11211), timeout=1)\n"
            "    except OSError: pass\n",
        )
        monkeypatch.setenv("MEMCACHED_SANDBOX_NO_GUARD", "1")
        assert passed(in_process.pytest()) == 1
        assert "1 failed" in in_process.pytest("--memcached-sandbox-guard=localhost:5").stdout

    def test_quiet(self, in_process: InProcess) -> None:
        in_process.write("test_it.py", "def test(memcached): memcached.flush()\n")
        assert "memcached-sandbox: " in in_process.pytest().stdout
        assert "memcached-sandbox: " not in in_process.pytest("--memcached-sandbox-quiet").stdout

    def test_no_memcached(self, django_in_process: InProcess) -> None:
        django_in_process.write("test_it.py", TEST_LOCATION)
        result = django_in_process.pytest("--memcached-sandbox-binary=/no/memcached")
        assert result.returncode == 4
        assert re.match(r"ERROR: .*'/no/memcached' does not exist", result.stderr)
        result = django_in_process.pytest("--memcached-sandbox-binary=/bin/false")
        assert result.returncode == 4
        assert re.match(r"ERROR: .*/bin/false.*", result.stderr), result.stderr

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("exclude=daed", "the aliases to exclude name 'daed', but the aliases in CACHES are"),
            ("binary=/bin/false", ".*/bin/false.*"),
        ],
    )
    def test_errors_while_the_settings_are_loaded(
        self, project: Project, option: str, message: str
    ) -> None:
        """pytest-django loads them before pytest is configured."""
        project.write("test_it.py", TEST_LOCATION)
        result = project.pytest(ON, f"--memcached-sandbox-{option}")
        assert (result.returncode, result.stdout) == (4, "")
        assert re.fullmatch(rf"ERROR: .*{message}.*\n\n", result.stderr), result.stderr

    def test_a_caches_setting_that_is_malformed_is_for_django_to_tell(
        self, make_project: MakeProject
    ) -> None:
        project = make_project({"default": {"LOCATION": "a:1"}})
        project.write("test_it.py", "from django.core.cache import cache\ncache.get('x')\n")
        result = project.pytest(ON)
        assert "InvalidCacheBackendError" in result.stdout or "KeyError" in result.stdout


class TestOtherCaches:
    """The options as arguments of a fixture that gives Django caches of its own."""

    CONFTEST = (
        "from sandbox.pytest import sandboxed_caches_fixture\n"
        "small = sandboxed_caches_fixture(memory_mb=4, threads=2, max_item_size=1 << 20)\n"
        "kept = sandboxed_caches_fixture(scope='module', flush='module', exclude=['other'])\n"
        "guarded = sandboxed_caches_fixture(guard=['localhost:5'])\n"
        "unguarded = sandboxed_caches_fixture(guard=None)\n"
    )
    TESTS = """
import socket
import pytest
from django.conf import settings
from django.core.cache import cache, caches

def connect(port):
    try: socket.create_connection(("localhost", port), timeout=1)
    except OSError as error: return "refuses" in str(error)

def test_small(small):
    (server,) = small.servers
    assert server.stats()["limit_maxbytes"] == str(4 << 20)
    assert settings.CACHES["default"]["LOCATION"] == server.address
    cache.set("key", "small")

def test_not_small():
    assert cache.get("key") is None
    cache.set("key", "large")

@pytest.mark.parametrize("number", range(3))
def test_kept(kept, number):
    assert cache.get("counter", 0) == number
    cache.set("counter", number + 1)
    assert settings.CACHES["other"]["LOCATION"] != settings.CACHES["default"]["LOCATION"]

def test_guarded(guarded): assert connect(5)
def test_unguarded(unguarded): assert not connect(11211)
def test_neither(): assert not connect(5)
"""

    CACHES: ClassVar = {
        "default": {"BACKEND": PYMEMCACHE, "LOCATION": "main"},
        "other": {"BACKEND": PYMEMCACHE, "LOCATION": "main", "KEY_PREFIX": "x"},
    }

    @override_settings(CACHES=CACHES)
    def test_in_a_sandbox(self, in_process: InProcess) -> None:
        in_process.write("conftest.py", self.CONFTEST)
        in_process.write("test_it.py", self.TESTS)
        result = in_process.pytest()
        assert re.findall(r"^FAILED (\S+)", result.stdout, re.MULTILINE) == [
            "test_it.py::test_guarded"
        ], result.stdout
        assert "localhost:5" in result.stdout
        assert "7 passed" in result.stdout

    def test_without_one(self, make_project: MakeProject) -> None:
        project = make_project(self.CACHES)
        project.write("conftest.py", self.CONFTEST)
        project.write("test_it.py", self.TESTS)
        assert passed(project.pytest("-k", "not not_small")) == 7

    @override_settings(CACHES=CACHES)
    def test_what_they_held_when_a_test_failed(self, in_process: InProcess) -> None:
        in_process.write("conftest.py", self.CONFTEST)
        in_process.write(
            "test_it.py",
            "from django.core.cache import cache\n"
            "def test(small):\n"
            "    cache.set('key', 'value')\n"
            "    assert not 'it'\n",
        )
        held = r"^-+ memcached at \S+ -+\n:1:key  \d+ bytes, expires in"
        result = in_process.pytest("-o", "memcached_sandbox=false")
        assert re.search(held, result.stdout, re.MULTILINE)

    @override_settings(CACHES=CACHES)
    def test_flushed_after_each_test_by_default(self, in_process: InProcess) -> None:
        in_process.write(
            "test_it.py",
            "import pytest\n"
            "from django.core.cache import cache\n"
            "from sandbox.pytest import sandboxed_caches_fixture\n"
            "box = sandboxed_caches_fixture(scope='session', autouse=True)\n"
            "@pytest.mark.parametrize('number', range(3))\n"
            "def test(number): assert cache.add('key', number)\n",
        )
        assert passed(in_process.pytest("-o", "memcached_sandbox=false")) == 3
