"""Fetch one file out of a package index's archive by exact name and sha256. Nothing of the archive is built, imported or run."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from aboveboard.errors import Unavailable

Progress = Callable[[str, int, int], None]
"""Called with a file name, bytes so far and bytes in all (0 if unknown)."""


@dataclass(frozen=True)
class Source:
    """Where a file can be had: a member of a package index's archive, or an address."""

    project: str = ""
    version: str = ""
    archive: str = ""
    member: str = ""
    url: str = ""


def fetch(sources: tuple[Source, ...], sha256: str, index: str, progress: Progress, cache: dict[str, bytes]) -> bytes:
    """The file with this sha256 from the first source that has it. `cache` keeps archives, for packs with several files of one.

    Raises Unavailable with the reason of every source that failed.
    """
    reasons = []
    for source in sources:
        label = source.url or f"{source.project} {source.version} from the package index"
        try:
            if source.url:
                data = _download(source.url, progress)
            else:
                if source.archive not in cache:
                    cache[source.archive] = _download(_archive_url(source, index), progress)
                data = _member(cache[source.archive], source)
        except (OSError, KeyError, LookupError, ValueError, zipfile.BadZipFile, tarfile.TarError) as error:
            reasons.append(f"{label}: {error or type(error).__name__}")
            continue
        found = hashlib.sha256(data).hexdigest()
        if found == sha256:
            return data
        reasons.append(f"{label}: has sha256 {found}, expected {sha256}")
    raise Unavailable("no source gave the file; on a machine without a network use --from DIR. " + "; ".join(reasons))


def write_whole(file: Path, data: bytes) -> None:
    """Write `file` so that it is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as part:
        try:
            part.write(data)
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).chmod(0o644)
            Path(part.name).replace(file)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise


def _archive_url(source: Source, index: str) -> str:
    from unearth import PackageFinder  # here, because every verb would pay for it

    finder = PackageFinder(index_urls=[index], ignore_compatibility=True)
    for package in finder.find_all_packages(source.project, allow_yanked=True):
        if package.version == source.version and package.link.filename == source.archive:
            return str(package.link.normalized)
    raise LookupError(f"the index has no {source.archive}")


def _download(url: str, progress: Progress) -> bytes:
    if not url.startswith(("https://", "http://", "file://")):
        raise ValueError(f"not an address: {url}")
    name = url.rsplit("/", 1)[-1]
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 (scheme checked above)
        total, parts, done = int(answer.headers.get("Content-Length") or 0), [], 0
        while part := answer.read(1 << 20):
            parts.append(part)
            done += len(part)
            progress(name, done, total)
    return b"".join(parts)


def _member(archive: bytes, source: Source) -> bytes:
    if source.archive.endswith((".whl", ".zip")):
        with zipfile.ZipFile(io.BytesIO(archive)) as wheel:
            return wheel.read(source.member)
    with tarfile.open(fileobj=io.BytesIO(archive)) as sdist:
        member = sdist.extractfile(source.member)
        if member is None:
            raise KeyError(source.member)
        return member.read()
