"""Freed memory: overwritten, so that no template is found in it that was removed."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable

_TUNABLES = "glibc.malloc.perturb=90:glibc.malloc.tcache_count=0"
_KEPT = 7
"""Freed blocks of one size, below 1,024 bytes, that numpy keeps for the next arrays of a thread."""


def overwrite_freed() -> None:
    """Have glibc overwrite each block that is freed, and keep none past that. It is told at a program's start: begins this one anew, once.

    Other C libraries have no such wish, and the program runs on.
    """
    told = os.environ.get("GLIBC_TUNABLES", "")
    if _TUNABLES not in told:
        os.environ["GLIBC_TUNABLES"] = f"{told}:{_TUNABLES}".lstrip(":")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 (itself again)


def overwrite_kept(dimensions: int) -> None:
    """Overwrite the small freed arrays that numpy keeps for this thread: those as large as one or several templates."""
    import numpy as np

    kept = [np.zeros(size, np.uint8) for size in range(dimensions, 1024, dimensions) for _ in range(_KEPT)]
    del kept


def wipe(secrets: Iterable[bytes]) -> None:
    """Overwrite bytes that nobody else holds and nobody reads again: Python does not overwrite what it frees itself, which is below 512
    bytes: no template of a pack for photographs, but each of the null pack."""
    for secret in secrets:
        ctypes.memset(id(secret) + bytes.__basicsize__ - 1, 0, len(secret))
