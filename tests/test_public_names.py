"""Users import public names from the places that the README and the documentation name."""

from __future__ import annotations

import pickle
from importlib import import_module

import pytest

import sandbox

from .conftest import Run

PUBLIC = {
    "sandbox": [
        "BinaryError",
        "Counts",
        "MainMemcachedRefused",
        "Memcached",
        "MemcachedFinding",
        "Operation",
        "Operations",
        "OptionError",
        "RunError",
        "Sandbox",
        "SandboxError",
        "Server",
        "ServerError",
        "StartError",
    ],
    "sandbox.django": ["CacheOpsMixin", "sandboxed", "sandboxed_caches"],
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


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'sandbox' has no attribute 'Client'"):
        sandbox.Client  # noqa: B018


@pytest.mark.parametrize("name", PUBLIC["sandbox"])
def test_repr_has_the_public_name(name: str) -> None:
    assert repr(getattr(sandbox, name)) == f"<class 'sandbox.{name}'>"


@pytest.mark.parametrize(
    "error",
    [
        sandbox.OptionError("memory_mb", "memory_mb=0: must be 1 or more"),
        sandbox.StartError("memcached was not ready"),
        sandbox.RunError("the run's sandbox does not answer"),
        sandbox.MainMemcachedRefused(111, "refused"),
    ],
)
def test_error_can_be_pickled(error: sandbox.SandboxError) -> None:
    """Parallel test runners pickle the errors of their workers."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_import_loads_nothing_heavy(python: Run) -> None:
    result = python(
        "import sys\n"
        "heavy = {'click', 'psutil', 'pymemcache', 'django'}\n"
        "import sandbox, sandbox.django\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print(sorted(name for name in sys.modules if name.startswith('sandbox')))\n"
        "sandbox.SandboxError, sandbox.Server, sandbox.Sandbox, sandbox.Memcached\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    assert result.stdout == "[]\n['sandbox', 'sandbox.django']\n[]\n"


def test_start_loads_few_modules(python: Run) -> None:
    """Each module delays the start of the server, under pytest most of all."""
    result = python(
        "import sys\n"
        "from sandbox import Memcached\n"
        "with Memcached(): pass\n"
        "own = [name for name in sys.modules if 'sandbox' in name.partition('.')[0]]\n"
        "print(*sorted(own), sep='\\n')\n"
    )
    modules = result.stdout.splitlines()
    assert "sandbox.server.memcached" in modules
    assert len(modules) <= 16, modules
