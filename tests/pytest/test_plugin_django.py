"""The plugin and the setup of Django: with pytest-django, without it, and without Django."""

from __future__ import annotations

from ..helpers.memcacheds import MainMemcached
from ..helpers.plugin_suites import ON, TEST_LOCATION
from ..helpers.projects import PYMEMCACHE, MakeProject, Project, header, passed


def test_plugin_starts_before_django_is_loaded(off_project: Project) -> None:
    """A module and `AppConfig.ready` use the cache before any test."""
    off_project.write("shop/__init__.py", "")
    off_project.write(
        "shop/apps.py",
        "from django.apps import AppConfig\n"
        "from django.core.cache import cache, caches\n"
        "module_level = caches['default']\n"
        "module_level.set('module', 1)\n"
        "class ShopConfig(AppConfig):\n"
        "    name = 'shop'\n"
        "    def ready(self): cache.set('ready', 1)\n",
    )
    settings = (off_project.folder / "settings.py").read_text()
    off_project.write("settings.py", settings + "INSTALLED_APPS = ['shop.apps.ShopConfig']\n")
    off_project.write(
        "test_it.py",
        "from django.core.cache import cache\n"
        "from shop.apps import module_level\n"
        "def test():\n"
        "    assert cache.get('module') == cache.get('ready') == 1\n"
        "    assert module_level.get('ready') == 1\n",
    )
    assert passed(off_project.pytest(ON)) == 1


def test_failed_setup_of_django_leaves_nothing(off_project: Project) -> None:
    """Django fails after its settings are loaded and the servers are started."""
    settings = (off_project.folder / "settings.py").read_text()
    off_project.write("settings.py", settings + "INSTALLED_APPS = ['missing']\n")
    off_project.write("test_it.py", TEST_LOCATION)
    result = off_project.pytest(ON)
    assert result.returncode == 1
    assert "No module named 'missing'" in result.stderr


def test_malformed_caches_setting_is_an_error_of_one_line(make_project: MakeProject) -> None:
    project = make_project({"default": {"LOCATION": "a:1"}})
    project.write("test_it.py", "from django.core.cache import cache\ncache.get('x')\n")
    result = project.pytest(ON)
    assert result.returncode == 4
    assert result.stderr.strip() == (
        "ERROR: CACHES['default'] needs a BACKEND, the path of a class, but has None"
    )


def test_django_is_sandboxed_without_pytest_django(off_project: Project) -> None:
    off_project.write("test_it.py", TEST_LOCATION)
    result = off_project.pytest(ON, "-p", "no:django", "-o", "DJANGO_SETTINGS_MODULE=",
                                DJANGO_SETTINGS_MODULE="settings")  # fmt: skip
    assert passed(result) == 2


def test_django_configured_in_a_conftest_is_sandboxed(
    off_project: Project, main_memcached: MainMemcached
) -> None:
    caches = {"default": {"BACKEND": PYMEMCACHE, "LOCATION": main_memcached.address}}
    off_project.write("pytest.ini", "[pytest]\n")
    off_project.write(
        "conftest.py",
        "from django.conf import settings\n"
        f"def pytest_configure(): settings.configure(CACHES={caches})\n",
    )
    off_project.write("test_it.py", TEST_LOCATION)
    assert passed(off_project.pytest(ON)) == 2


def test_django_configured_before_the_plugin_is_sandboxed(
    off_project: Project, main_memcached: MainMemcached
) -> None:
    """An early plugin configures Django and has already used a backend."""
    off_project.write("pytest.ini", "[pytest]\n")
    off_project.write(
        "early.py",
        "from django.conf import settings\n"
        f"caches = {{'default': {{'BACKEND': {PYMEMCACHE!r}, "
        f"'LOCATION': {main_memcached.address!r}}}}}\n"
        "settings.configure(CACHES=caches)\n"
        "from django.core.cache import cache\n"
        "cache.__class__\n",
    )
    off_project.write("test_it.py", TEST_LOCATION)
    assert passed(off_project.pytest(ON, "-p", "early")) == 2


def test_server_starts_on_use_without_django(plain: Project) -> None:
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
