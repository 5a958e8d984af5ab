"""Programs that do not become a server: what the error says, and that nothing is left."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from sandbox import Memcached, StartError

from ..helpers.processes import script


def test_start_error_names_the_exit_code_or_the_signal(tmp_path: Path) -> None:
    with pytest.raises(
        StartError, match="ended with exit code 1, saying: Illegal suboption .* before it was"
    ):
        Memcached(args=["-o", "nonsense"]).start()
    with pytest.raises(StartError, match="ended with exit code 0 before it was ready"):
        Memcached(binary="true").start()
    killed = script(tmp_path / "killed", "#!/bin/sh\nkill -SEGV $$\n")
    with pytest.raises(StartError, match=r"was killed by signal 11 \(Segmentation fault\)"):
        Memcached(binary=killed).start()


def test_start_error_has_the_end_of_the_output(tmp_path: Path) -> None:
    talker = script(
        tmp_path / "talker", "#!/bin/sh\nseq 100000\necho 'this is\nthe end' >&2; exit 3\n"
    )
    with pytest.raises(StartError, match="exit code 3, saying: .*100000 this is the end") as info:
        Memcached(binary=talker).start()
    assert len(str(info.value)) < 800


def test_output_of_a_failed_program_is_printable_in_the_error(tmp_path: Path) -> None:
    painter = script(
        tmp_path / "painter", "#!/bin/sh\nprintf '\\033[31mred\\n::error::\\302\\233'; exit 3\n"
    )
    with pytest.raises(StartError) as info:
        Memcached(binary=painter).start()
    assert r"exit code 3, saying: \x1b[31mred ::error::\x9b before" in str(info.value)
    assert str(info.value).isprintable()


def test_program_that_never_answers_is_killed_after_start_timeout(tmp_path: Path) -> None:
    sleeper = script(tmp_path / "sleeper", "#!/bin/sh\nexec sleep 100\n")
    begin = time.monotonic()
    server = Memcached(binary=sleeper, start_timeout=0.3)
    server.launch()
    pid = server.pid
    with pytest.raises(StartError, match="not ready within 0.3 seconds and was killed"):
        server.wait()
    assert time.monotonic() - begin >= 0.3
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("words", ["TCP", "TCP INET: 99999", "TCP INET: -1", "TCP INET: \x1b[2J"])
def test_garbage_in_place_of_a_port_is_an_error(tmp_path: Path, words: str) -> None:
    liar = script(
        tmp_path / "liar",
        f'#!/bin/sh\necho "{words}" >>"$MEMCACHED_PORT_FILENAME.lck"\nexec sleep 100\n',
    )
    with pytest.raises(
        StartError, match="as a memcached does at .*: wrote b'TCP.* in place of its p"
    ):
        Memcached(binary=liar).start()


def test_files_and_folders_of_a_failed_program_are_removed(
    run_folder: Path, tmp_path: Path
) -> None:
    messy = script(
        tmp_path / "messy",
        '#!/bin/sh\ncd "$(dirname "$MEMCACHED_PORT_FILENAME")"\n'
        "mkdir folder && touch file folder/file && ln -s / link\nexit 3\n",
    )
    with pytest.raises(StartError, match="ended with exit code 3"):
        Memcached(binary=messy).start()
    assert list(run_folder.iterdir()) == []
