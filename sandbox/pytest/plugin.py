"""Reports on a session of pytest: in its header and summary, and for tests that failed."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

import pytest

from ..django.aliases import servers_by_alias
from ..errors import printable
from ..inject import refusals
from ..run.local import local_source
from ..run.summary import Summary, contents, refused
from ..server import Server, outages
from ..server.memcached import server_at
from . import NAME, flag
from .options import is_set, memcached_options

if TYPE_CHECKING:
    from ..inject import run
    from ..inspection.inspector import Inspector
    from ..inspection.recent import RecentOperations
    from ..inspection.wanted import Wanted
    from .findings import SessionFindings

# What hooks that wrap others return.
Hook = Generator[None, Any, Any]

# What this plugin is registered as, beside the one that has the options and the fixtures.
SESSION = f"{NAME}_session"

TITLE = "memcached-sandbox"


def session_of(config: pytest.Config) -> SandboxedSession:
    """Returns the plugin of a session that is in a run."""
    return cast("SandboxedSession", config.pluginmanager.get_plugin(SESSION))


class FailureContents:
    """Shows in the report of a failure what caches held, though they are flushed by then."""

    def __init__(self) -> None:
        self._left: list[tuple[str, str]] = []  # by a teardown that failed

    def contents(self) -> list[tuple[str, str]]:
        """Returns the sections of a report."""
        raise NotImplementedError

    def show(self, report: pytest.TestReport) -> None:
        """Adds the sections to a report of a failure."""
        if report.failed:
            report.sections += self._left or self.contents()
        self._left = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Forgets the outages of the test before, or of an earlier attempt at this one."""
        outages.events.clear()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Hook:
        """Keeps what the caches held when a teardown failed: they are flushed before its report."""
        try:
            return (yield)
        except BaseException:
            self._left = self.contents()
            raise


class SandboxedSession(FailureContents):
    """Serves pytest's hooks while the sandbox is on."""

    def __init__(self, config: pytest.Config, entered: run.Run, joins: bool) -> None:
        super().__init__()
        self._config = config
        self._run = entered
        self._joins = joins
        self._quiet = is_set(config, "quiet")
        self._has_tests = False
        self._inspector: Inspector | None = None
        self._recent: RecentOperations | None = None
        self.findings: SessionFindings | None = None
        # Its refusals are those that no test is to blame for.
        self._summary = Summary(
            flag(f"{NAME}_memory"), is_set(config, "strict"), is_set(config, "quiet")
        )

    def expect(self, wanted: Wanted, inspector: Inspector | None) -> None:
        """Has the session tell what its tests did to the caches."""
        self._inspector = inspector
        self._summary.expect(wanted)
        if wanted.findings:
            from .findings import SessionFindings

            self.findings = SessionFindings(self._run, self._summary)

    def trace(self, recent: RecentOperations) -> None:
        """Has failures show the last operations of the test."""
        self._recent = recent

    def default_server(self) -> Server:
        """Returns the server behind the default alias or, without any alias, the run's own."""
        servers = self.servers_by_alias()
        if "default" in servers:
            return servers["default"][0]
        if servers:
            pytest.fail(
                "CACHES['default'] is not at a memcached of the sandbox, but others are: "
                + ", ".join(f"memcached_sandbox[{alias!r}]" for alias in servers),
                pytrace=False,
            )
        if source := local_source(self._run):
            is_new = not source.servers()
            first = source.first_server()
            if is_new:
                self._run.meet([first.address])
            return first
        return Server(os.environ["MEMCACHED_SANDBOX_ADDRESS"])

    def servers_by_alias(self) -> dict[str, list[Server]]:
        """Returns the servers behind each alias of CACHES that is in the sandbox."""
        return servers_by_alias(self._run)

    def pytest_report_header(self, config: pytest.Config) -> str | None:
        """Returns a line about the servers of the session."""
        if self._quiet:
            return None
        places = ", ".join(
            f"{server} in place of {main}"
            for main, server in self._run.resolved.items()
            if server != main
        )
        if self._joins:
            joined = f"in the run that is there already{': ' * bool(places)}{places}"
            return f"{TITLE}: {printable(joined)}"
        memory = f"{memcached_options(config).get('memory_mb', 64)} MB"
        workers = config.getoption("dist", "no") != "no"
        if not places:
            places = "on each worker" if workers else "started when it is used"
        elif workers:
            places += ", and others on each worker"
        return f"{TITLE}: {memory}, {printable(places)}"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Hook:
        """Fails a test that reached for the main memcached, and shows what the caches held."""
        report: pytest.TestReport = yield
        taken = self._run.take_refusals()
        if faults := refusals.faults(taken):
            told = "\n".join(refused(faults))
            if report.failed:
                report.sections.append((TITLE, told))
            else:
                report.outcome = "failed"
                report.longrepr = told
        self._summary.refusals += [refusal for refusal in taken if refusal not in faults]
        self.show(report)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Forgets what the test before has done, or an earlier attempt at this one."""
        super().pytest_runtest_setup()
        if self._recent is not None:
            self._recent.follow(self._run.servers())
            self._recent.forget()

    def contents(self) -> list[tuple[str, str]]:
        """Returns the sections for each server of this process: its items, and operations."""
        mains = {server: main for main, server in self._run.resolved.items()}
        sections = [
            section_of(
                server_at(address),
                f", in place of {mains[address]}" if address in mains else "",
            )
            for address in sorted(self._run.servers())
        ]
        for address, lines in self._recent.lines() if self._recent is not None else ():
            title = f"last operations on memcached at {address}"
            sections.append((printable(title), "\n".join(lines)))
        return sections

    def pytest_collection_finish(self) -> None:
        """Keeps what modules were refused on import, which is not the first test's doing."""
        self._summary.refusals += self._run.take_refusals()

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Hook:
        """Sends the summary of a worker to its controller, and fails the session if strict."""
        if self.findings is not None:
            self._summary.add_followers(self.findings.finish())
        if hasattr(self._config, "workeroutput"):
            self._complete_summary()
            if self._inspector is not None:
                self._summary.add_followers(self._inspector.finish())
            self._config.workeroutput[NAME] = self._summary.packed()

        yield
        self._report_unused()
        if self._inspector is not None and not hasattr(self._config, "workeroutput"):
            self._summary.add_followers(self._inspector.finish())
            self._summary.write_files()
        if self._summary.has_failed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_runtest_logreport(self) -> None:
        """Notes that a test was run, here or in a worker."""
        self._has_tests = True

    def note_other_servers(self) -> None:
        """Notes that a test has started servers of its own."""
        self._summary.has_others = True

    def _report_unused(self) -> None:
        """Has the summary tell if no test could reach a server."""
        source = local_source(self._run)
        if source is None or self._joins or hasattr(self._config, "workeroutput"):
            return
        self._summary.refusals += self._run.take_refusals()
        if self._has_tests and not self._summary.has_servers and not source.servers():
            self._summary.report_unused("no settings of Django were loaded")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Takes what a worker of xdist has sent, if it lived to send it."""
        if packed := getattr(node, "workeroutput", {}).get(NAME):
            self._summary.add_packed(packed)
        elif self._summary.report is not None:
            self._summary.report.note("a worker has ended too early to tell what its tests did")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints the summary of the run."""
        self._complete_summary()
        for line in self._summary.lines():
            terminalreporter.write_line(
                line.titled(TITLE), yellow=line.is_warning, red=line.is_problem
            )

    def _complete_summary(self) -> None:
        """Adds what this process has to tell. Of a joined run its owner tells."""
        self._summary.refusals += self._run.take_refusals()
        source = local_source(self._run)
        if source and not self._joins:
            self._summary.add_servers(source.servers())


def section_of(server: Server, place: str = "") -> tuple[str, str]:
    """Returns the section of a report that shows what a server holds, and was made to be."""
    told = dict.fromkeys(what for address, what in outages.events if address == server.address)
    return printable(f"memcached at {server.address}{place}"), "\n".join([*told, contents(server)])
