"""A run that another process owns, which answers at a control socket: that of ``sandbox exec``."""

from __future__ import annotations

import json
import os
import socket

from .run import ANSWER_TIMEOUT, Run

TYPE_CHECKING = False  # typing's own, without the import of typing

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .refusals import Refusal


class ControlledRun(Run):
    """A client of the control socket, and what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.control = os.environ["MEMCACHED_SANDBOX_CONTROL"]
        xdist = os.environ.get("PYTEST_XDIST_WORKER")
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID", "")
        # A run of pytest-xdist that is around the whole run does not make us a worker of its.
        if xdist and not self.worker and run != os.environ.get("MEMCACHED_SANDBOX_OUTER_RUN"):
            self.worker = f"{run}/{xdist}"

    def report_refusal(self, refusal: Refusal) -> None:
        super().report_refusal(refusal)
        self._request({"refused": refusal._asdict()})

    def _ask(self, addresses: Iterable[str]) -> dict[str, str]:
        answer = self._request({"stand_in": list(addresses), "worker": self.worker})
        stand_ins: dict[str, str] = answer["stand_ins"]
        return stand_ins

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(ANSWER_TIMEOUT)
                connection.connect(self.control)
                connection.sendall(json.dumps(request).encode() + b"\n")
                with connection.makefile("rb") as lines:
                    answer: dict[str, Any] = json.loads(lines.readline())
        except FileNotFoundError as error:
            raise self.failed(
                f"the sandbox of this run has ended: nobody listens at {self.control}; "
                "start another, or 'sandbox stop' if it was that of a shell"
            ) from error
        except (OSError, ValueError) as error:
            raise self.failed(f"the run's sandbox does not answer: {error}") from error
        if "error" in answer:
            raise self.failed(answer["error"])
        return answer
