"""One collection's templates in memory as they are scanned, and the file that keeps them from one start to the next.

A cache and nothing more: all of it can be made again from the database, which is the truth.
"""

from __future__ import annotations

import json
import mmap
import os
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aboveboard.biometrics.gallery import BINS, LEAST, Faces, OwnScores, Sample, Tally
from aboveboard.biometrics.scan import Rows, quantise, width

_HEADER = 512
_FORMAT = "aboveboard gallery 1"
_PIECE = 8 << 20
_QUANTISED = 8192
"""Templates that are quantised at once."""


class _Column:
    """An array of rows in anonymous memory with huge pages, which grows in place: the kernel moves page tables, not bytes."""

    def __init__(self, kind: type[np.generic], *shape: int) -> None:
        self._kind, self._shape = np.dtype(kind), shape
        self.row_bytes = self._kind.itemsize * int(np.prod(shape, dtype=np.int64))
        self._pages = self._made(1024 * self.row_bytes)
        self.all = self._view()

    def reach(self, rows: int) -> None:
        """Have room for so many rows. Pages that were not written yet cost no memory."""
        if rows <= len(self.all):
            return
        size, before = max(rows, len(self.all) * 3 // 2) * self.row_bytes, self._pages
        del self.all
        try:
            before.resize(size)
        except BufferError:  # somebody still looks at it
            self._pages = self._made(size)
            self._pages[: len(before)] = before[:]
        finally:  # where there is no memory, it stays as it was
            self.all = self._view()

    def _made(self, size: int) -> mmap.mmap:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        return pages

    def _view(self) -> NDArray[Any]:
        rows = len(self._pages) // self.row_bytes
        return np.frombuffer(self._pages, self._kind, count=rows * self.row_bytes // self._kind.itemsize).reshape(rows, *self._shape)


@dataclass(frozen=True, slots=True)
class State:
    """As of when a gallery is: the collection's model (version, model), its generation, its touches, and its last face."""

    model: tuple[str, str]
    generation: int = -1
    touches: int = 0
    last: int = 0


class Gallery:
    """Rows of a collection in no particular order, with their faces' and subjects' numbers. Its user holds `lock` while he looks at it.

    d + 24 bytes a face. A face that goes leaves nothing: the last row takes its place, and where that was, zeros are written.
    """

    def __init__(self, model: tuple[str, str], tally: Tally) -> None:
        """`tally`: counts the scores among the gallery's own faces."""
        self.lock = threading.RLock()
        self._tally = tally
        self.removals = self._changes = 0
        self.clear(model)

    def clear(self, model: tuple[str, str]) -> None:
        """Be an empty gallery of a model (version, model); the memory goes back."""
        self.state = State(model)
        self.size, self.dimension = 0, -1
        self.removals += 1
        self._changes += 1
        self._sample: Sample | None = None
        self._own: tuple[int, OwnScores] | None = None
        self._owned: tuple[tuple[int, int], NDArray[np.int64]] | None = None
        self.subjects: list[int] = []
        self._slot_of: dict[int, int] = {}
        self._columns: dict[str, _Column] = {}
        self._make(0)

    @property
    def rows(self) -> Rows:
        """What is scanned."""
        return Rows(self._of("codes"), self._of("scales"), self._of("errors"))

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The faces' rows in the database."""
        return self._of("numbers")

    @property
    def slots(self) -> NDArray[np.int32]:
        """Whose each row is: an index into `subjects`, -1 for nobody's."""
        return self._of("slots")

    def owned(self) -> NDArray[np.int64]:
        """How many faces each of `subjects` has, and last how many are nobody's; counted once for each change."""
        now = self._changes, self.size
        if self._owned is None or self._owned[0] != now:
            self._owned = now, np.roll(np.bincount(self.slots + 1, minlength=len(self.subjects) + 1), -1)
        return self._owned[1]

    def append(self, numbers: Sequence[int], subjects: Sequence[int | None], vectors: NDArray[np.float32]) -> None:
        """Add faces with their templates (n, d); raises ValueError for what is none, or not as long as those that are here."""
        if self.size and vectors.shape[1] != self.dimension:
            raise ValueError(f"it has {vectors.shape[1]} numbers, others {self.dimension}")
        self._make(vectors.shape[1])
        for start in range(0, len(numbers), _QUANTISED):
            some = slice(start, start + _QUANTISED)
            rows, slots = quantise(vectors[some]), [self._slot(subject) for subject in subjects[some]]
            new = {"codes": rows.codes, "scales": rows.scales, "errors": rows.errors, "numbers": numbers[some], "slots": slots}
            end = self.size + len(slots)
            for name, values in new.items():
                column = self._columns[name]
                column.reach(end)
                column.all[self.size : end] = values
            self.size, before = end, self.size
            if self._sample:
                self._sample.move(None, self._faces(slice(before, end)))

    def give(self, subjects: Mapping[int, int | None]) -> None:
        """Make faces, by their numbers, subjects' or nobody's."""
        places = self._places(list(subjects))
        before = self._faces(places)
        self.slots[places] = [self._slot(subjects[number]) for number in before.numbers.tolist()]
        self._changes += 1
        if self._sample:
            self._sample.move(before, self._faces(places))
            self._sample.drop(list(subjects))

    def remove(self, numbers: Sequence[int]) -> None:
        """Take faces out; nothing of them stays."""
        gone = self._places(numbers)
        if not gone.size:
            return
        if self._sample:
            self._sample.move(self._faces(gone), None)
            self._sample.drop(numbers)
        left = self.size - gone.size
        holes = gone[gone < left]
        movers = np.setdiff1d(np.arange(left, self.size), gone, assume_unique=True)
        for column in self._columns.values():
            column.all[holes] = column.all[movers]
            column.all[left : self.size] = 0
        self.size = left
        self.removals += 1
        self._changes += 1

    def own_scores(self, smallest: Callable[[], Sequence[int]]) -> OwnScores | None:
        """How the scores among the gallery's own faces lie, None where it is too small; `smallest`: the faces with the smallest ids."""
        if self.size < LEAST:
            self._sample = self._own = None
            return None
        if self._own is None or self._own[0] != self.state.generation:
            numbers = smallest()
            sample, self._sample = self._sample or Sample(self.rows.codes.shape[1], self._tally), None
            if set(sample.members.tolist()) != set(numbers):
                sample.choose(self._faces(self._places(numbers)), lambda: [self._faces(slice(0, self.size))])
            # Only now: one whose counting broke off would go on with what it has not counted.
            self._sample, self._own = sample, (self.state.generation, sample.scores(self.size))
        return self._own[1]

    def _faces(self, which: slice | NDArray[np.int64]) -> Faces:
        slots = self.slots[which]
        if len(slots) > len(self.subjects):
            owners = np.array([*self.subjects, 0], np.int64)[slots]
        else:
            owners = np.fromiter((self.subjects[slot] if slot >= 0 else 0 for slot in slots.tolist()), np.int64, len(slots))
        return Faces(self.numbers[which], self.rows.codes[which], self.rows.scales[which], owners)

    def _of(self, name: str) -> NDArray[Any]:
        return self._columns[name].all[: self.size]

    def _make(self, dimension: int) -> None:
        if dimension != self.dimension:
            self.dimension = dimension
            kinds: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
                "codes": (np.int8, (width(max(dimension, 1)),)),
                "scales": (np.float32, ()),
                "errors": (np.float32, ()),
                "numbers": (np.int64, ()),
                "slots": (np.int32, ()),
            }
            self._columns = {name: _Column(kind, *shape) for name, (kind, shape) in kinds.items()}

    def slot_of(self, subject: int | None) -> int:
        """The place of a subject in `subjects`; -2 for one that has no face here."""
        return self._slot_of.get(-1 if subject is None else subject, -2)

    def _slot(self, subject: int | None) -> int:
        if subject is None:
            return -1
        slot = self._slot_of.setdefault(subject, len(self.subjects))
        if slot == len(self.subjects):
            self.subjects.append(subject)
        return slot

    def _places(self, numbers: Sequence[int]) -> NDArray[np.int64]:
        return np.flatnonzero(np.isin(self.numbers, np.asarray(numbers, np.int64)))

    def save(self, file: Path) -> bool:
        """Write the gallery beside `file`, then put it in its place; False where a face changed meanwhile, or the disk failed.

        The lock is held for a piece at a time, so that searches go on.
        """
        with self.lock:
            changes, size, state = self._changes, self.size, self.state
            head = {"format": _FORMAT, **{name: getattr(state, name) for name in State.__slots__}}
            head |= {"size": size, "dimension": self.dimension, "subjects": len(self.subjects)}
            members, counts = (
                (self._sample.members, self._sample.counts) if self._sample else (np.empty(0, np.int64), np.empty(0, np.int32))
            )
            head["members"] = len(members)
            small = [np.array(self.subjects, np.int64).tobytes(), members.tobytes(), counts.tobytes()]
        new = file.with_name(f"{file.name}.{os.getpid()}.new")
        try:
            file.parent.mkdir(mode=0o700, exist_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.seek(_HEADER)
                check = 0
                for piece in small:
                    check = zlib.crc32(piece, check)
                    out.write(piece)
                for column in self._columns.values():
                    step = max(_PIECE // column.row_bytes, 1)
                    for start in range(0, size, step):
                        with self.lock:
                            if self._changes != changes:
                                return False
                            piece = column.all[start : min(start + step, size)].tobytes()
                        check = zlib.crc32(piece, check)
                        out.write(piece)
                out.seek(0)
                out.write(json.dumps({**head, "crc": _checked(head, check)}).encode().ljust(_HEADER))
            with self.lock:
                if self._changes != changes:
                    return False
                new.replace(file)
        except OSError:
            return False
        finally:
            new.unlink(missing_ok=True)
        return True

    def load(self, file: Path) -> None:
        """Become what a file says; raises FileNotFoundError where there is none, ValueError where it is damaged or of another model."""
        with file.open("rb") as source:
            head = json.loads(source.read(_HEADER))
            if head["format"] != _FORMAT or tuple(head["model"]) != self.state.model:
                raise ValueError("it is of another format or model")
            size, subjects, members = head["size"], 8 * head["subjects"], head["members"]
            sampled = members * (8 + 4 * BINS)
            if file.stat().st_size != _HEADER + subjects + sampled + size * (width(head["dimension"]) + 20):
                raise ValueError("it is of another length than it says")
            self.clear(self.state.model)
            self._make(head["dimension"])
            small = source.read(subjects + sampled)
            check = zlib.crc32(small)
            for subject in np.frombuffer(small[:subjects], np.int64).tolist():
                self._slot(subject)
            for column in self._columns.values():
                column.reach(size)
                target = column.all[:size].data.cast("B")
                for start in range(0, len(target), _PIECE):
                    piece = target[start : start + _PIECE]
                    source.readinto(piece)
                    check = zlib.crc32(piece, check)
            if head.pop("crc") != _checked(head, check):
                raise ValueError("its checksum is wrong")
            self.size = size
            self.state = State(self.state.model, head["generation"], head["touches"], head["last"])
            if members:
                numbers = np.frombuffer(small, np.int64, members, subjects)
                places = self._places(numbers.tolist())
                sorter = np.argsort(self.numbers[places])
                places = places[sorter[np.searchsorted(self.numbers[places], numbers, sorter=sorter)]]
                self._sample = Sample(self.rows.codes.shape[1], self._tally)
                self._sample.restore(
                    self._faces(places), np.frombuffer(small, np.int32, members * BINS, subjects + 8 * members).reshape(-1, BINS)
                )


def _checked(head: Mapping[str, Any], check: int) -> int:
    """A file's checksum: of what follows its head, and of the head."""
    return zlib.crc32(json.dumps(head).encode(), check)
