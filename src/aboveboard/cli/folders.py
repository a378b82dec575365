"""Photographs named on a command line: single files, or every photograph below a folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aboveboard.cli.common import printable
from aboveboard.errors import BadRequest, BadSample, SampleTooLarge, SampleUnreachable

if TYPE_CHECKING:
    from aboveboard.service.app import App
    from aboveboard.storage.objects import Objects

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif")
MOST_BYTES = 64 * 1024 * 1024
_LONGEST_ID = 255


class Unreadable(BadSample):
    """The file is there and cannot be read."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a photograph lies that is an object in a bucket; as text s3://bucket/name."""

    bucket: str
    name: str

    @staticmethod
    def named(text: str) -> Stored | None:
        """The object, or the beginning of names, that a text of the form s3://bucket/name means; None for another text."""
        # A path that was parsed as one has lost its second slash.
        found = re.fullmatch(r"s3://?([^/]+)/?(.*)", text, flags=re.DOTALL)
        return Stored(*found.groups()) if found else None

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.name}"


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph to work on. `name` is its path inside the folder that was named, or its file name."""

    path: Path | Stored
    name: str

    @property
    def external_image_id(self) -> str:
        """The name as an ExternalImageId: '/' becomes ':', other signs that the API does not allow '_'; of a longer one the end.

        Where signs were replaced or cut, eight digits of the name's hash follow: two names never become one id.
        """
        plain = re.sub(r"[^a-zA-Z0-9_.\-:]", "_", self.name.replace("/", ":"))
        if plain == self.name.replace("/", ":") and len(plain) <= _LONGEST_ID and ":" not in self.name:
            return plain
        mark = hashlib.sha256(os.fsencode(self.name)).hexdigest()[:8]
        return f"{plain[-(_LONGEST_ID - 9) :]}-{mark}"

    @property
    def source(self) -> str:
        """Where the original is kept, as a record names it."""
        if isinstance(self.path, Stored):
            return str(self.path)
        return os.fsencode(self.path.absolute()).decode("utf-8", "replace")

    def original(self, objects: Objects) -> bytes:
        """The file's, or the object's, bytes as they are; raises BadSample where it cannot be read."""
        if isinstance(self.path, Stored):
            return objects.read(self.path.bucket, self.path.name, allowed=("*",))
        try:
            size = self.path.stat().st_size
            if size > MOST_BYTES:
                raise SampleTooLarge(f"the file has {size:,} bytes, more than the {MOST_BYTES:,} that are read; use a smaller one")
            return self.path.read_bytes()
        except FileNotFoundError as error:
            raise SampleUnreachable("there is no such file") from error
        except (OSError, ValueError) as error:
            raise Unreadable(f"the file cannot be read: {error.strerror if isinstance(error, OSError) else error}") from error

    def read(self, app: App) -> bytes:
        """The photograph as a JPEG or PNG, converted where it is another format; raises BadSample where it cannot be read."""
        from aboveboard.vision import formats

        return formats.readable(self.original(app.objects), app.settings.max_image_pixels)


def gather(paths: Sequence[Path]) -> tuple[list[Photograph], list[str]]:
    """Photographs in the order of names, and the names of files in folders that are passed over because of their suffix."""
    found: list[Photograph] = []
    skipped: list[str] = []
    for path in paths:
        if path.is_dir():
            for name in _files(path):
                if name.lower().endswith(SUFFIXES):
                    found.append(Photograph(path / name, name))
                else:
                    skipped.append(printable(name))
        elif path.exists():
            found.append(Photograph(path, path.name))
        else:
            raise BadRequest(f"there is no file or folder {path}")
    if not found:
        raise BadRequest(
            f"{', '.join(map(str, paths))}: no photograph there; name JPEG or PNG files ({' '.join(SUFFIXES)}) or a folder of them"
        )
    return found, skipped


def gather_stored(places: Sequence[Stored], objects: Objects) -> tuple[list[Photograph], list[str]]:
    """Photographs whose names in a bucket begin as a place says, and the names that are passed over because of their suffix."""
    found: list[Photograph] = []
    skipped: list[str] = []
    for place in places:
        for name in objects.list(place.bucket, place.name):
            if name.lower().endswith(SUFFIXES):
                found.append(Photograph(Stored(place.bucket, name), name))
            else:
                skipped.append(printable(name))
        if not found:
            raise BadRequest(f"{place}: no photograph there")
    return found, skipped


def _files(folder: Path) -> list[str]:
    """Every file below the folder, relative to it; links to folders are not followed."""
    names: list[str] = []
    for place, folders, files in os.walk(folder):
        folders.sort()
        names += [(Path(place) / file).relative_to(folder).as_posix() for file in sorted(files)]
    return names
