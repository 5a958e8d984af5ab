"""CACHES and cache backends are at sandbox addresses under `sandbox exec`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sandbox import Sandbox
from sandbox.run.control import Control
from sandbox.run.environment import Injection, injection_variables

from ..helpers.django_runs import SHOW_LOCATIONS, address_of, servers_of
from ..helpers.memcacheds import MainMemcached
from ..helpers.projects import PYMEMCACHE, MakeProject, Project
from ..helpers.suites import CLEAN_CACHE


@pytest.mark.parametrize(
    "command",
    [
        "./manage.py shell -c '{}'",
        "django-admin shell --settings settings --pythonpath . -c '{}'",
        "python -m django shell --settings settings --pythonpath . -c '{}'",
        "python -c 'import settings as s; from django.conf import settings as t\n"  # noqa: ISC004
        "t.configure(CACHES=s.CACHES)\n{}'",
    ],
)
def test_caches_are_repointed_on_each_way_to_settings(project: Project, command: str) -> None:
    script = SHOW_LOCATIONS.replace("'LOCATION'", '"LOCATION"')
    result = project.sandboxed("-v", "--", "sh", "-c", command.format(script))
    assert f"default {address_of(result)}\n" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("locations", "servers"),
    [
        (["a", "A:11211"], 1),
        (["a:1", ["b:1", "a:1", "c:1"]], 3),
        (["a:1;b:1", "unix:/run/m.sock"], 3),
        (["a:1", {"b:1", "c:1"}], 3),
    ],
)
def test_each_distinct_address_has_one_server(
    make_project: MakeProject, locations: list[Any], servers: int
) -> None:
    names = ["default", "other"]
    project = make_project(
        {
            alias: {"BACKEND": PYMEMCACHE, "LOCATION": location, "KEY_PREFIX": alias}
            for alias, location in zip(names, locations, strict=True)
        }
    )
    project.write(
        "tests.py",
        "from django.core.cache import caches\n"
        "from django.test import SimpleTestCase\n"
        "class Tests(SimpleTestCase):\n"
        "    def test(self):\n"
        "        for alias in caches:\n"
        "            for n in range(30): caches[alias].set(str(n), n)\n"
        "            self.assertEqual(len(caches[alias].get_many(map(str, range(30)))), 30)\n"
        "    test_again = test\n",
    )
    assert servers_of(project.test()) == servers


@pytest.mark.parametrize(
    ("alias", "message"),
    [
        ({"LOCATION": "a:1"}, "CACHES['b'] needs a BACKEND, the path of a class, but has None"),
        ({"BACKEND": PYMEMCACHE, "LOCATION": None}, "CACHES['b'] has the LOCATION None: it must"),
    ],
)
def test_malformed_alias_is_an_error_and_leads_no_other_to_the_main_memcached(
    make_project: MakeProject, main_memcached: MainMemcached, alias: object, message: str
) -> None:
    default = {"BACKEND": PYMEMCACHE, "LOCATION": main_memcached.address}
    project = make_project({"default": default, "b": alias})
    project.write("use.py", "from django.core.cache import cache\ncache.set('key', 1)\n")
    result = project.sandboxed("--", "python", "use.py", DJANGO_SETTINGS_MODULE="settings")
    assert result.returncode == 1
    assert f"errors.CachesError: {message}" in result.stderr.splitlines()[-2]
    main_memcached.assert_untouched()


def test_excluded_alias_stays_whatever_its_options_and_must_exist(
    make_project: MakeProject,
) -> None:
    alias = {"BACKEND": PYMEMCACHE, "LOCATION": "main"}
    dead = {**alias, "LOCATION": "nowhere:1", "OPTIONS": {"tls_context": True}}
    project = make_project({"default": alias, "dead": dead})
    show = ["./manage.py", "shell", "-c", SHOW_LOCATIONS]
    result = project.sandboxed("--exclude", "dead", "--", *show)
    assert "dead nowhere:1\n" in result.stdout
    assert "default main\n" not in result.stdout
    result = project.sandboxed("--exclude", "daed", "--", *show)
    assert (
        "the aliases to exclude name 'daed', but the aliases in CACHES are 'default', 'dead'"
        in result.stderr
    )
    assert result.returncode == 1
    result = project.sandboxed("--", *show)
    assert "CACHES['dead']['OPTIONS']['tls_context'] is set, but a sandbox has" in result.stderr
    assert "or exclude the alias with --exclude dead\n" in result.stderr
    assert result.returncode == 1


def test_unclear_backend_is_repointed_when_it_connects(make_project: MakeProject) -> None:
    """Settings import no backend, and neither its path nor its LOCATION tells what it is."""
    project = make_project({"default": {"BACKEND": "odd.Odd", "LOCATION": "main"}})
    project.write(
        "odd.py",
        "from django.core.cache.backends.memcached import PyMemcacheCache\n"
        "class Odd(PyMemcacheCache): pass\n",
    )
    project.write("tests.py", CLEAN_CACHE)
    project.test()


def test_main_address_in_override_settings_is_repointed(
    project: Project, main_memcached: MainMemcached
) -> None:
    project.write(
        "tests.py",
        "from django.core.cache import cache\n"
        "from django.test import SimpleTestCase, override_settings\n"
        f"MAIN = {main_memcached.address!r}\n"
        "class Tests(SimpleTestCase):\n"
        f"    @override_settings(CACHES={{'default': {{'BACKEND': {PYMEMCACHE!r},\n"
        "        'LOCATION': MAIN, 'KEY_PREFIX': 'x'}})\n"
        "    def test(self):\n"
        "        self.assertTrue(cache.add('key', 'value'))\n",
    )
    project.test()


def test_option_in_override_settings_that_no_sandbox_serves_is_an_error(
    project: Project, main_memcached: MainMemcached
) -> None:
    """It is raised where the override is entered, and for addresses of the run only."""
    project.write(
        "tests.py",
        "from django.conf import settings\n"
        "from django.test import SimpleTestCase, override_settings\n"
        f"MAIN = {{'BACKEND': {PYMEMCACHE!r}, 'LOCATION': {main_memcached.address!r}}}\n"
        "TLS, SASL = {'tls_context': True}, {'username': 'me'}\n"
        "class Tests(SimpleTestCase):\n"
        "    def test(self):\n"
        "        repointed = {**settings.CACHES['default'], 'OPTIONS': TLS}\n"
        "        for alias in (repointed, {**MAIN, 'OPTIONS': SASL}):\n"
        "            caches = {'other': alias, 'default': settings.CACHES['default']}\n"
        "            (option,) = alias['OPTIONS']\n"
        "            place = f\"CACHES['other']['OPTIONS']['{option}'] is set, but a sandbox\"\n"
        "            with self.assertRaises(ValueError) as caught:\n"
        "                override_settings(CACHES=caches).enable()\n"
        "            self.assertIn(place, str(caught.exception))\n"
        "            self.assertIn('with --exclude other', str(caught.exception))\n"
        "            self.assertNotIn('other', settings.CACHES)\n"
        "    @override_settings(CACHES={'default': {**MAIN, 'LOCATION': 'b:1', 'OPTIONS': TLS}})\n"
        "    def test_of_an_address_elsewhere(self):\n"
        "        self.assertEqual(settings.CACHES['default']['OPTIONS'], TLS)\n",
    )
    project.test()


def test_other_address_in_override_settings_stays(project: Project) -> None:
    project.write(
        "tests.py",
        "from django.core.cache import cache\n"
        "from django.test import SimpleTestCase, override_settings\n"
        f"NOWHERE = {{'default': {{'BACKEND': {PYMEMCACHE!r}, 'LOCATION': '127.0.0.1:9'}}}}\n"
        "class Tests(SimpleTestCase):\n"
        "    @override_settings(CACHES=NOWHERE)\n"
        "    def test(self):\n"
        "        with self.assertRaises(ConnectionRefusedError): cache.get('key')\n",
    )
    result = project.test()
    assert "refused" not in result.stderr


def test_pylibmc_is_repointed_in_each_worker(
    make_project: MakeProject, main_memcached: MainMemcached
) -> None:
    pytest.importorskip("pylibmc")
    backend = "django.core.cache.backends.memcached.PyLibMCCache"
    project = make_project({"default": {"BACKEND": backend, "LOCATION": main_memcached.address}})
    project.write("tests.py", CLEAN_CACHE)
    project.test()
    project.test("--parallel", "2")
    main_memcached.assert_untouched()


def test_settings_cost_one_round_trip(
    make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = {"BACKEND": PYMEMCACHE, "LOCATION": ["a:1", "b:1"]}
    project = make_project({"default": alias, "other": {**alias, "LOCATION": "c:1;a:1"}})
    requests: list[object] = []
    answer = Control._answer

    def recorded(control: Control, request: object, client: Any) -> Mapping[str, object]:
        requests.append(request)
        return answer(control, request, client)

    monkeypatch.setattr(Control, "_answer", recorded)
    with Sandbox() as sandbox:
        control = Control(sandbox, str(tmp_path / "control"))
        injected = injection_variables(os.environ, Injection([], "test", False, []))
        script = "from django.core.cache import caches; [caches[a].get('key') for a in caches]"
        result = project.manage(
            "shell", "-c", script, MEMCACHED_SANDBOX_CONTROL=control.path, **injected
        )
        assert result.returncode == 0, result.stderr
        control.stop()
    assert requests == [{"resolve": ["a:1", "b:1", "c:1", "a:1"], "worker": ""}]
