"""Computes the environment variables of the processes of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ..inject import FOLDER, address, hooks, refusals, rest, sources

if TYPE_CHECKING:
    from ..server.memcached import Memcached

# The record of `sandbox start`, from which `sandbox stop` restores the variables of a shell.
BEFORE = "MEMCACHED_SANDBOX_BEFORE"

# Servers by worker and main address, in JSON, as a process that owns its run tells its children.
ADDRESSES = "MEMCACHED_SANDBOX_ADDRESSES"

# Variables that a process sets for its children once its servers run.
OF_OWN_RUN = (
    "MEMCACHED_SANDBOX_ADDRESS",
    "MEMCACHED_SANDBOX_PID",
    ADDRESSES,
    rest.NAMESPACE,
    hooks.FURTHER,
    refusals.VARIABLE,
    sources.LOGS,
    sources.OWNER,
    "MEMCACHED_SANDBOX_WORKER",
)

# The sections in which tox has the settings of all environments: in tox.ini, and in TOML.
TOX_SECTIONS = ("testenv", "env_run_base")

# What tox passes on: without and with the variables that inject Python.
TOX_VARIABLES = "MEMCACHED_SANDBOX_*"
TOX_INJECTION = f"PYTHONPATH,PYTEST_PLUGINS,{TOX_VARIABLES}"

PLACEHOLDER = r"\{(\w+)\}"
PYTEST_PLUGIN = "_memcached_sandbox.pytest_plugin"


class Injection(NamedTuple):
    """Settings of the Python processes of a run.

    leads: what the guard of the kernel leads to servers: "", "workers" or "all".
    marks: the processes mark tests in the logs of servers.
    """

    exclude: Collection[str]
    flush: str
    crawl: bool
    guarded: Collection[str]
    leads: str = ""
    marks: bool = False


def unknown_placeholder(template: str, servers: int, unix: bool) -> str | None:
    """Returns what is wrong with a template, or None."""
    names = ["address"] if unix else ["address", "host", "port"]
    known = {f"{name}{number}" for name in names for number in ("", *range(1, servers + 1))}
    for placeholder in re.findall(PLACEHOLDER, template):
        if placeholder not in known:
            shown = ", ".join(f"{{{name}}}" for name in names)
            numbers = f", nor one of them with a number from 1 to {servers}"
            socket = " on a Unix socket" if unix else ""
            return (
                f"{{{placeholder}}} in {template!r} is none of {shown}{socket}"
                f"{numbers if servers > 1 else ''}."
            )
    return None


def command_variables(
    environ: Mapping[str, str],
    servers: Sequence[Memcached],
    control: str,
    templates: Sequence[tuple[str, str]],
    injects: bool,
) -> dict[str, str]:
    """Returns the variables of a command: the servers' addresses, and those of ``--env``.

    :param injects: whether the command has `injection_variables`, too.
    """
    values: dict[str, str] = {}
    for number, server in enumerate(servers, start=1):
        at = address.Address(server.address)
        for name, value in (("address", at), ("host", at.host), ("port", at.port)):
            values[f"{name}{number}"] = value
            values.setdefault(name, value)
    return {
        "MEMCACHED_SANDBOX_ADDRESS": servers[0].address,
        hooks.FURTHER: "\n".join(server.address for server in servers[1:]),
        "MEMCACHED_SANDBOX_PID": str(servers[0].pid),
        rest.NAMESPACE: rest.pid_namespace(),
        "MEMCACHED_SANDBOX_CONTROL": control,
        # If sandbox exec itself runs in a worker of pytest-xdist, that worker's name is ignored.
        "MEMCACHED_SANDBOX_OUTER_RUN": environ.get("PYTEST_XDIST_TESTRUNUID", ""),
        "MEMCACHED_SANDBOX_WORKER": "",
        BEFORE: "",  # A shell around this run is restored by itself only.
        "TOX_OVERRIDE": _tox_override(environ, [name for name, _ in templates], injects),
        **{
            name: re.sub(PLACEHOLDER, lambda match: values[match[1]], template)
            for name, template in templates
        },
    }


def _tox_override(environ: Mapping[str, str], names: Iterable[str], injects: bool) -> str:
    """Returns what makes tox pass on the variables of a run, which it keeps to itself otherwise.

    :param names: variables beside these. tox takes no other names than letters, digits and "_".
    """
    override = environ.get("TOX_OVERRIDE", "")
    if injects:
        passed = TOX_INJECTION
    else:
        passed = TOX_VARIABLES
        override = override.replace(TOX_INJECTION, TOX_VARIABLES)  # that of an outer run
    passed = ",".join([passed, *(name for name in names if name.isidentifier())])
    for section in TOX_SECTIONS:
        override = _with_first(f"{section}.pass_env+={passed}", override, ";")
    return override


def child_variables(first: Memcached) -> dict[str, str]:
    """Returns the variables that a process sets for its children once its servers run."""
    return {
        "MEMCACHED_SANDBOX_ADDRESS": first.address,
        "MEMCACHED_SANDBOX_PID": str(first.pid),
        rest.NAMESPACE: rest.pid_namespace(),
    }


@contextmanager
def injection(environ: MutableMapping[str, str], settings: Injection) -> Iterator[None]:
    """Injects the children of this process while the context lasts.

    `child_variables` may be put into ``environ`` meanwhile. They are removed as well.
    """
    variables = injection_variables(environ, settings)
    with restored_environ(environ, [*variables, *OF_OWN_RUN]):
        environ.update(variables)
        for name in OF_OWN_RUN:
            environ.pop(name, None)
        yield


@contextmanager
def restored_environ(environ: MutableMapping[str, str], names: Collection[str]) -> Iterator[None]:
    """Restores variables when the context is left."""
    before = {name: environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                environ.pop(name, None)
            else:
                environ[name] = value


def injection_variables(environ: Mapping[str, str], injection: Injection) -> dict[str, str]:
    """Returns the variables that make each Python process of the run repoint, flush and guard."""
    return {
        "PYTHONPATH": _with_first(FOLDER, environ.get("PYTHONPATH", ""), os.pathsep),
        "PYTEST_PLUGINS": _with_first(PYTEST_PLUGIN, environ.get("PYTEST_PLUGINS", ""), ","),
        "MEMCACHED_SANDBOX_RUN_EXCLUDE": " ".join(injection.exclude),
        "MEMCACHED_SANDBOX_RUN_FLUSH": injection.flush,
        "MEMCACHED_SANDBOX_RUN_CRAWL": "1" if injection.crawl else "",
        "MEMCACHED_SANDBOX_GUARDED": " ".join(injection.guarded),
        hooks.LEADS: injection.leads,
        hooks.MARKS: "1" if injection.marks else "",
    }


def without_injection(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that undo the injection of an outer run; none if there is none."""
    undone = {
        "PYTHONPATH": _without(FOLDER, environ.get("PYTHONPATH", ""), os.pathsep),
        "PYTEST_PLUGINS": _without(PYTEST_PLUGIN, environ.get("PYTEST_PLUGINS", ""), ","),
        "MEMCACHED_SANDBOX_GUARDED": "",
    }
    return {name: value for name, value in undone.items() if name in environ}


def _with_first(entry: str, others: str, separator: str) -> str:
    rest = _without(entry, others, separator)
    return f"{entry}{separator}{rest}" if rest else entry


def _without(entry: str, others: str, separator: str) -> str:
    return separator.join(other for other in others.split(separator) if other and other != entry)
