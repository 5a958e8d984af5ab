"""The table of options: how their texts are read, and which values are refused."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import Memcached, OptionError
from sandbox.server import options
from sandbox.server.options import Given


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory_mb": 1}, "memory_mb=1: memcached needs at least 2 MB"),
        ({"memory_mb": 0}, "memory_mb=0: must be 1 or more"),
        ({"memory_mb": -5}, "memory_mb=-5: must be 1 or more"),
        ({"memory_mb": 64.5}, "memory_mb=64.5: must be a whole number"),
        ({"memory_mb": "64"}, "memory_mb='64': must be a whole number"),
        ({"memory_mb": True}, "memory_mb=True: must be a whole number"),
        ({"memory_mb": 10**9}, "memory_mb=1000000000: this machine has [0-9]+ MB"),
        ({"max_item_size": 1024}, "max_item_size=1024: memcached takes multiples of 512 KB"),
        ({"max_item_size": 0}, "max_item_size=0: must be 1 or more"),
        (
            {"max_item_size": 2 * 1024 * 1024, "memory_mb": 3},
            "max_item_size=2097152: must be at most 1536 KB, half of memory_mb=3: give more",
        ),
        ({"max_item_size": 2**31, "memory_mb": 5000}, "max_item_size=2147483648: .* limit is 1 GB"),
        ({"threads": 0}, "threads=0: must be 1 or more"),
        ({"max_connections": None}, "max_connections=None: must be a whole number"),
        ({"max_connections": 14}, "max_connections=14: must be 15 or more with 1 thread: memcac"),
        ({"threads": 500}, "max_connections=1024: must be 2011 or more with 500 threads"),
        ({"start_timeout": 0}, "start_timeout=.*: must be more than 0 seconds"),
        ({"start_timeout": "5"}, "start_timeout='5': must be a number of seconds"),
        ({"start_timeout": float("nan")}, "start_timeout=.*: must be more than 0 seconds"),
        ({"start_timeout": float("inf")}, "start_timeout=inf: must be at most 3600 seconds"),
        ({"start_timeout": 1e9}, "start_timeout=1000000000.0: must be at most 3600 seconds"),
        ({"args": "-v"}, "args='-v': must be a list of strings"),
        ({"args": [1]}, r"args=\[1\]: must be a list of strings"),
        ({"args": ["file"]}, "args=.*: memcached takes options only, and 'file' is none"),
        ({"args": ["--"]}, "args=.*: memcached takes options only, and '--' is none"),
        ({"args": ["-v", "--", "-v"]}, "args=.*: memcached takes options only, and '-v' is none"),
        ({"args": ["-o", "--"]}, "args=.*: memcached takes options only, and '--' is none"),
        ({"args": ["a\0b"]}, "args=.*: no program can be passed a NUL or a lone surrogate"),
        ({"args": ["-o", "\ud800"]}, "args=.*: no program can be passed a NUL or a lone surr"),
        ({"args": None}, "args=None: must be a list of strings"),
        ({"args": b"-v"}, "args=b'-v': must be a list of strings"),
        ({"binary": b"/bin/true"}, "binary=b'/bin/true': must be a path or a name"),
        ({"binary": "a\0b"}, "binary=.*: no path has a NUL or a lone surrogate in it"),
        ({"unix_socket": None}, "unix_socket=None: must be True or False"),
        ({"crawl": 1}, "crawl=1: must be True or False"),
        ({"memory_mb": None}, "memory_mb=None: must be a whole number"),
        ({"threads": 10**30}, "threads=10*: must be at most 2147483647"),
        ({"start_timeout": 1e10}, "start_timeout=10000000000.0: must be at most 3600 seconds"),
        ({"args": ["--no-such-option"]}, "args=.*: memcached does not take that, .*not recognized"),
        (
            {"args": ["-l", "0.0.0.0"]},
            "args=.*: -l cannot be passed .*: a sandbox listens on this ma",
        ),
        ({"args": ["-l0.0.0.0"]}, "args=.*: -l cannot be passed"),
        ({"args": ["--listen=0.0.0.0"]}, "args=.*: --listen cannot be passed"),
        (
            {"args": ["--unix-so", "/tmp/x"]},
            "args=.*: --unix-socket cannot be passed .*use unix_sock",
        ),
        ({"args": ["-rd"]}, "args=.*: -d cannot be passed .*: a daemon could not be ended"),
        ({"args": ["-C"]}, "args=.*: -C cannot be passed .*: up to memcached 1.6.24, a second"),
        ({"args": ["-rv"]}, "args=.*: -v cannot be passed .*: a line for each command would fill"),
        ({"args": ["-R", "20"]}, "args=.*: -R cannot be passed .*: a sandbox executes all that"),
        ({"args": ["-o", "hashpower=20,no_lru_crawler"]}, "args=.*: -o no_lru_crawler cannot be"),
        ({"args": ["--extended=no_modern"]}, "args=.*: --extended no_modern cannot be passed .*"),
        ({"args": ["-U", "11211"]}, "args=.*: -U cannot be passed .*: a sandbox has no UDP"),
        ({"args": ["-u", "root"]}, "args=.*: -u cannot be passed"),
        ({"args": ["-a", "0777"]}, "args=.*: -a cannot be passed .*: the socket is for its owner"),
        ({"args": ["-m", "1024"]}, "args=.*: -m cannot be passed .*use memory_mb"),
        ({"args": ["-rZ"]}, "args=.*: -Z cannot be passed .*: the sandbox talks .* without TLS"),
        ({"args": ["--enable-sasl"]}, "args=.*: --enable-sasl cannot be passed .* a password"),
        ({"args": ["-S"]}, "args=.*: -S cannot be passed .*: the sandbox talks .* a password"),
        ({"args": ["-Y", "/file"]}, "args=.*: -Y cannot be passed .*: the sandbox .* a password"),
        ({"args": ["-B", "binary"]}, "args=.*: -B cannot be passed .* needs the text protocol"),
    ],
)
def test_option_out_of_range_is_an_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as info:
        Memcached(**arguments)
    assert info.value.option in message


@pytest.mark.parametrize(
    ("text", "megabytes"), [("64", 64), ("64M", 64), ("512m", 512), ("1g", 1024)]
)
def test_memory_is_read_in_units(text: str, megabytes: int) -> None:
    assert options.megabytes(text) == megabytes


@pytest.mark.parametrize("text", ["", "m", "1.5g", "64k", "1t", "٦٤", "64 M"])
def test_memory_in_another_unit_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="must be a whole number of MB, or a size such as 512m"):
        options.megabytes(text)


@pytest.mark.parametrize("text", ["", "1_0", "1.5", "8m", "x"])
def test_text_that_is_no_whole_number_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="must be a whole number"):
        options.whole_number(text)


@pytest.mark.parametrize(
    ("text", "size"), [("1048576", 1 << 20), ("512k", 1 << 19), ("2M", 2 << 20), ("1g", 1 << 30)]
)
def test_size_is_read_in_units(text: str, size: int) -> None:
    assert options.size(text) == size


def test_repeatable_option_in_the_environment_is_split_at_spaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEMCACHED_SANDBOX_EXCLUDE", "one other")
    monkeypatch.setenv("MEMCACHED_SANDBOX_MEMORY", "")
    assert options.from_environment() == {
        "exclude": Given(["one", "other"], "MEMCACHED_SANDBOX_EXCLUDE=one other")
    }


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("True", True), ("y", True), ("off", False), ("no", False)]
)
def test_switch_is_read_from_several_words(text: str, value: bool) -> None:
    assert options.read({"strict": Given(text, f"--strict={text}")}) == {"strict": value}


def test_words_and_keywords_of_options_are_unique() -> None:
    words = [option.word for option in options.OPTIONS]
    keywords = [option.keyword for option in options.OPTIONS]
    assert len({*words}) == len({*keywords}) == len(options.OPTIONS)
