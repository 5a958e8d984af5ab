"""Users import public names from the places that the README and the documentation name."""

from __future__ import annotations

from importlib import import_module

import pytest

import sandbox

PUBLIC = {
    "sandbox": [
        "BinaryError",
        "MainMemcachedRefused",
        "Memcached",
        "OptionError",
        "RunError",
        "Sandbox",
        "SandboxError",
        "Server",
        "ServerError",
        "StartError",
    ],
    "sandbox.django": ["sandboxed", "sandboxed_caches"],
    "sandbox.django.runner": ["SandboxRunner", "SandboxRunnerMixin"],
    "sandbox.pytest": ["sandboxed_caches_fixture"],
    "sandbox.unittest": ["MemcachedMixin", "MemcachedTestCase"],
}


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in PUBLIC.items() for name in names]
)
def test_public_name_can_be_imported(module: str, name: str) -> None:
    assert getattr(import_module(module), name).__name__ == name


def test_public_names_are_the_exported_ones() -> None:
    assert sorted(sandbox.__all__) == PUBLIC["sandbox"]


@pytest.mark.parametrize("name", PUBLIC["sandbox"])
def test_repr_has_the_public_name(name: str) -> None:
    assert repr(getattr(sandbox, name)) == f"<class 'sandbox.{name}'>"


def test_import_loads_nothing_heavy(python) -> None:
    result = python(
        "import sys\n"
        "import sandbox, sandbox.django\n"
        "heavy = {'click', 'psutil', 'pymemcache', 'django'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print(sorted(name for name in sys.modules if name.startswith('sandbox')))\n"
    )
    assert result.stdout == "[]\n['sandbox', 'sandbox.django']\n"
