"""Photographs named on a command line: single files, or every JPEG and PNG below a folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aboveboard.cli.common import printable
from aboveboard.errors import BadRequest, BadSample, SampleTooLarge

SUFFIXES = (".jpg", ".jpeg", ".png")
MOST_BYTES = 64 * 1024 * 1024
_LONGEST_ID = 255


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph to work on. `name` is its path inside the folder that was named, or its file name."""

    path: Path
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

    def read(self) -> bytes:
        """The file's bytes; raises BadSample where it cannot be read."""
        try:
            size = self.path.stat().st_size
            if size > MOST_BYTES:
                raise SampleTooLarge(f"the file has {size:,} bytes, more than the {MOST_BYTES:,} that are read; use a smaller one")
            return self.path.read_bytes()
        except OSError as error:
            raise BadSample(f"the file cannot be read: {error.strerror}") from error


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


def _files(folder: Path) -> list[str]:
    """Every file below the folder, relative to it; links to folders are not followed."""
    names: list[str] = []
    for place, folders, files in os.walk(folder):
        folders.sort()
        names += [(Path(place) / file).relative_to(folder).as_posix() for file in sorted(files)]
    return names
