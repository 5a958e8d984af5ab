"""Sandbox addresses without servers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sandbox.inject import refusals


class NumberedSource:
    """Knows a sandbox address for each main address, without starting a server."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}

    def worker(self) -> str:
        return ""

    def resolve(self, addresses: Iterable[str], worker: str) -> dict[str, str]:
        wanted = list(addresses)
        for address in wanted:
            self.addresses.setdefault(address, f"127.0.0.1:{40000 + len(self.addresses)}")
        return {address: self.addresses[address] for address in wanted}

    def others(self, worker: str) -> list[str]:
        raise AssertionError

    def log(self, address: str) -> str:
        raise AssertionError

    def outage(self, address: str) -> str:
        return ""

    def begin_outage(self, address: str, kind: str) -> Callable[[], bool]:
        raise AssertionError

    def restart(self, address: str) -> None:
        raise AssertionError

    def mend(self, addresses: Iterable[str]) -> bool:
        return False

    def report_refusal(self, refusal: refusals.Refusal) -> None:
        assert refusal.kind in (refusals.EXCLUDED, refusals.OTHER)
