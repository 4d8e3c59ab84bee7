"""Files from the network: resumed where they stopped, complete or not there at all."""

from __future__ import annotations

import hashlib
import html
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from siliforce.errors import DataError
from siliforce.progress import track

BLOCK = 1 << 20
ATTEMPTS = 5
TIMEOUT = 60
WAIT = 2.0
"""Seconds before the second attempt; twice as long before each further one."""


def download(url: str, path: Path, size: int | None = None, sha256: str | None = None) -> Path:
    """Fetch a file; what is there already is kept, what is half there is continued.

    Args:
        url: http(s). A page that asks to confirm a large file is answered.
        path: where the file goes; `path.part` holds it until it is complete.
        size: bytes, if known.
        sha256: of the content, if known.

    Raises:
        DataError: not reachable, or not the file that was expected.
        OSError: no space; what was fetched stays and is continued next time.
    """
    if path.exists() and (size is None or path.stat().st_size == size):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    for attempt in range(ATTEMPTS):
        try:
            _fetch(url, part)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS - 1:
                raise DataError(f"{url}: {error.code} {error.reason}; {ADVICE}") from error
        except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError) as error:
            if attempt == ATTEMPTS - 1:
                reason = getattr(error, "reason", error)
                raise DataError(f"{url}: cannot be reached ({reason}); {ADVICE}") from error
        time.sleep(WAIT * 2**attempt)
    _check(part, url, size, sha256)
    return part.replace(path)


ADVICE = "try again later (it goes on where it stopped), or give a copy with --from"


def read_url(url: str) -> bytes:
    """A small answer, such as a listing.

    Raises:
        DataError: not reachable.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return bytes(answer.read())
    except (OSError, HTTPException) as error:
        raise DataError(f"{url}: cannot be reached ({error}); {ADVICE}") from error


def _fetch(url: str, part: Path) -> None:
    """Continue `part` until it is complete."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if error.code == 416 and total == str(have):
            return
        if error.code == 416:  # longer than the file there is: another file
            part.unlink()
            _fetch(url, part)
            return
        raise
    with answer:
        if answer.headers.get_content_type() == "text/html":
            confirmed = _confirmation(answer.read().decode(errors="replace"), url)
            if confirmed is None:
                raise DataError(f"{url}: a web page came instead of the file; {ADVICE}")
            _fetch(confirmed, part)
            return
        continued = answer.status == 206
        length = answer.headers.get("Content-Length")
        with part.open("ab" if continued else "wb") as file:
            for block in _blocks(answer, part.name.removesuffix(".part"), length):
                file.write(block)
    expected = int(length) + (have if continued else 0) if length else None
    if expected is not None and part.stat().st_size < expected:
        raise ConnectionError("the connection ended early")


def _blocks(answer: HTTPResponse, name: str, length: str | None) -> Iterator[bytes]:
    n_blocks = -(-int(length) // BLOCK) if length else None
    yield from track(iter(lambda: answer.read(BLOCK), b""), f"fetching {name}", total=n_blocks)


def _confirmation(page: str, url: str) -> str | None:
    """Address behind the form of a page that asks whether a large file is really wanted."""
    form = re.search(r'<form[^>]*action="([^"]+)"', page)
    if form is None:
        return None
    fields = {}
    for tag in re.findall(r"<input[^>]*>", page):
        name, value = (re.search(rf'{key}="([^"]*)"', tag) for key in ("name", "value"))
        if name and value:
            fields[html.unescape(name[1])] = html.unescape(value[1])
    if "confirm" not in fields:
        return None
    action = urllib.parse.urljoin(url, html.unescape(form[1]))
    return f"{action}?{urllib.parse.urlencode(fields)}"


def _check(part: Path, url: str, size: int | None, sha256: str | None) -> None:
    found = part.stat().st_size
    if size is not None and found != size:
        part.unlink()
        raise DataError(f"{url}: {found} bytes came, {size} were announced; fetch it again")
    if sha256 is not None:
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            part.unlink()
            raise DataError(f"{url}: damaged on the way (SHA-256 differs); fetch it again")
