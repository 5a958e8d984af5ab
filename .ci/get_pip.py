"""Gets pip from the package index, for an environment that was made without it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")
JSON = "application/vnd.pypi.simple.v1+json"
WHEEL = re.compile(r"pip-(\d+(?:\.\d+)*)-py3-none-any\.whl")

# Seconds that the index may be silent.
TIMEOUT = 60


def _fits(requires: str) -> bool:
    """Returns whether this Python is one that a wheel asks for, such as ">=3.10"."""
    oldest = re.search(r">=\s*3\.(\d+)", requires)
    return oldest is None or int(oldest[1]) <= sys.version_info[1]


def main() -> None:
    """Installs the newest pip into the environment of this Python."""
    request = urllib.request.Request(f"{INDEX.rstrip('/')}/pip/", headers={"Accept": JSON})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        files = json.load(response)["files"]
    wheels = [
        (match[1], file)
        for file in files
        if (match := WHEEL.fullmatch(file["filename"])) and _fits(file.get("requires-python") or "")
    ]
    _, newest = max(wheels, key=lambda wheel: [*map(int, wheel[0].split("."))])
    with urllib.request.urlopen(
        urllib.parse.urljoin(request.full_url, newest["url"]), timeout=TIMEOUT
    ) as response:
        content = response.read()
    if hashlib.sha256(content).hexdigest() != newest["hashes"]["sha256"]:
        sys.exit(f"{newest['filename']} is not the file that {INDEX} names.")
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder, newest["filename"])
        wheel.write_bytes(content)
        # A wheel of pip can be run as it is.
        subprocess.run(
            [sys.executable, f"{wheel}/pip", "-q", "install", "--no-index", wheel], check=True
        )


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
        sys.exit(f"pip cannot be got from {INDEX}: {error}")
