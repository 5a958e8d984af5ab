"""A control socket for the tests of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.run.control import Control

from ..helpers.controls import serving


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with serving(tmp_path / "control") as control:
        yield control
