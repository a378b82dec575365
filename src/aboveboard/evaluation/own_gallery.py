"""Calibrate on an agency's own gallery, from the file that the gate wrote of it: counts of scores, no face and no name.

Non-mated scores are those of sampled faces with all faces of other people, mated ones those of people with several faces.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import lzma
import math
import operator
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aboveboard.biometrics.gallery import BINS, EDGES, KNOWN, LEAST_MATED, LEAST_MATED_PEOPLE, both_sides, once
from aboveboard.errors import BadRequest
from aboveboard.evaluation import metrics
from aboveboard.evaluation.calibrating import calibration_from
from aboveboard.evaluation.metrics import Counts, Pairs, Resampling, Scores
from aboveboard.evaluation.run import Progress
from aboveboard.vision.packs import Models

_LARGEST, _MOST = 20_000_000, 50_000_000
"""Bytes of the arrays of such a file, and faces of a gallery: more than there ever are."""
_MATED = 4_096 * (32 * 31 // 2)
"""The most comparisons of people with themselves that a gallery's are counted of."""
_LEAST_KEPT, _MOST_KEPT = 1_000_000, 2_000_000
"""How many of the highest scores are spread out of their bins, for the tail fit: a share of 1 % within these."""
_BROKEN = (ValueError, LookupError, TypeError, ArithmeticError, EOFError, MemoryError, RuntimeError)
_MAKE = "make one with: aboveboard collection scores COLLECTION FILE.npz"


@dataclass(frozen=True, eq=False)
class GalleryFile:
    """Counts of a gallery of `size` faces: `non_mated` (faces, BINS) of sampled faces of known people, `person` (faces,) from 0,
    `mated` (BINS,) of `mated_people` people; `about`: audit id, collection, model version."""

    non_mated: Counts
    person: Counts
    mated: Counts
    mated_people: int
    size: int
    about: dict[str, Any]
    sha256: str

    @staticmethod
    def read(file: Path) -> GalleryFile:
        """Read what `collection scores` wrote; raises BadRequest for anything else, and where users are not known."""
        try:
            content = file.read_bytes()
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if sum(part.file_size for part in archive.infolist()) > _LARGEST:
                    raise ValueError("it is larger than such a file ever is")
            with np.load(io.BytesIO(content), allow_pickle=False) as found:
                has_user, person, counts, mated = (found[name] for name in ("has_user", "person", "counts", "mated"))
                about, mated_people = json.loads(str(found["about"])), operator.index(found["mated_people"].item())
            _check(has_user, person, counts, mated, size := operator.index(about["gallery"]["size"]))
            counts, mated = counts.astype(np.int64), mated.astype(np.int64)
            about = {key: str(about[key]) for key in ("audit_id", "collection", "model")}
        except OSError as error:
            raise BadRequest(f"{file} cannot be read: {error.strerror or error}") from error
        except (*_BROKEN, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error) as error:
            raise BadRequest(f"{file} holds no gallery's scores of this version ({error!r}); {_MAKE}") from error
        if has_user.mean() < KNOWN:
            raise BadRequest(
                f"of {has_user.size} sampled faces {np.count_nonzero(has_user)} have a user: without users the scores of one person's "
                "faces would count as false matches. Associate faces with users (CreateUser, AssociateFaces), then measure again"
            )
        owner = np.unique(person[has_user], return_inverse=True)[1]
        return GalleryFile(counts[has_user], owner, mated, mated_people, size, about, hashlib.sha256(content).hexdigest())

    @property
    def comparisons(self) -> int:
        """Non-mated pairs, each once: those of two sampled faces were counted twice."""
        return round(int(self.non_mated.sum()) * once(len(self.non_mated), self.size))

    def resampling(self, draws: int, seed: int) -> SampledFaces:
        """Its comparisons, and draws of its people. A score is taken to lie anywhere in its bin of 0.002."""
        scores, face = _spread(self.non_mated, seed, _kept(self.non_mated))
        mated, mated_subject = _spread(self.mated[None], seed)
        reaching = np.interp(np.linspace(-1, 1, metrics.BINS + 1), EDGES, np.append(0, np.cumsum(self.non_mated.sum(axis=0))))
        people = int(self.person.max()) + 1
        pairs = Pairs(
            subject=self.person,
            mated=mated,
            mated_subject=mated_subject,
            tail=scores,
            tail_templates=np.stack([face, face], axis=1),
            counts=np.diff(np.floor(reaching + 1e-6)).astype(np.int64),
            sizes=np.bincount(self.person),
            missed=np.zeros(people, np.int64),
        )
        trials = np.bincount(self.person, self.non_mated.sum(axis=1)).astype(np.float64)
        # The gallery's other side is a draw of people too: docs/gallery-factor.md, "Interval".
        variance = both_sides(self.non_mated.sum(axis=1), self.size)
        weights = np.random.default_rng(seed).gamma(1 / variance, variance, (draws, people))
        return SampledFaces(pairs, weights, trials, self.mated_people, seed)


def _check(has_user: NDArray[Any], person: NDArray[Any], counts: NDArray[Any], mated: NDArray[Any], size: int) -> None:
    """Raise ValueError where arrays are of another form, or count what no gallery of so many faces has."""
    faces = has_user.size
    is_formed = has_user.shape == person.shape == (faces,) and counts.shape == (faces, BINS) and mated.shape == (BINS,)
    is_typed = has_user.dtype == np.bool_ and all(array.dtype.kind in "iu" for array in (person, counts, mated))
    if not is_formed or not is_typed or not 1 < faces <= size <= _MOST:
        raise ValueError("its arrays are not of this form")
    is_bounded = counts.min() >= 0 and counts.max() < size and mated.min() >= 0 and mated.max() <= _MATED
    if not is_bounded or counts.sum(axis=1, dtype=np.int64).max() >= size or mated.sum(dtype=np.int64) > _MATED:
        raise ValueError("it counts what a gallery of so many faces cannot have")
    spread = int(np.cumsum(counts.sum(axis=0, dtype=np.int64)[::-1])[-1 - _first(counts, _kept(counts))])
    if spread > 3 * _MOST_KEPT:
        raise ValueError(f"its {spread:,} highest comparisons are in a few bins of 0.002, which no gallery's are")
    if has_user.mean() >= KNOWN and (np.unique(person[has_user]).size < 2 or not counts[has_user].any()):
        raise ValueError("no two people are compared in it")


@dataclass(frozen=True)
class SampledFaces(Resampling):
    """People of the sample drawn by random weights (mean 1) whose variance stands for both sides of the comparisons.

    A weighted bootstrap (Praestgaard and Wellner, Ann. Probab. 21, 1993); `trials`: comparisons of each person of the sample.
    Whose the mated comparisons are is not known: they are drawn as if each of their `mated_people` were one trial.
    """

    trials: Scores
    mated_people: int
    seed: int

    def totals(self) -> tuple[Scores, Scores]:
        """Weighted numbers of non-mated comparisons of each draw; of mated ones none are drawn."""
        return self.weights @ self.trials, np.zeros(len(self.weights))

    def mated_binned(self) -> Iterator[Scores]:
        """Of each draw how many mated comparisons lie in each bin."""
        counts = metrics.binned(self.pairs.mated)
        random, each = np.random.default_rng(self.seed), self.pairs.mated.size / self.mated_people
        return (np.asarray(random.multinomial(self.mated_people, counts / counts.sum()) * each, np.float64) for _ in self.weights)

    def tail_weights(self, size: int | None = None) -> Iterator[Scores]:
        """Of each draw the weights of the `size` highest non-mated scores."""
        person = self.pairs.subject[self.pairs.tail_templates[:size, 0]]
        return (weight[person] for weight in self.weights)


def calibrate_on(
    file: GalleryFile,
    models: Models,
    data_set: str = "",
    date: datetime.date | None = None,
    progress: Progress | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The calibration of a pack from a gallery's file, as `calibrating.calibrate` makes it from photographs.

    `copies`: scores beyond the end of the pack's present scale, of copies or of people under two users: they make rare rates look worse.
    Raises BadRequest for a file of another model version or with too few comparisons.
    """
    version = models.card.model_version
    if file.about["model"] != version:
        raise BadRequest(f"the gallery's templates are of model version {file.about['model']}, the pack in use has {version}")
    if file.mated.sum() < LEAST_MATED or file.mated_people < LEAST_MATED_PEOPLE:
        raise BadRequest(
            f"{int(file.mated.sum())} comparisons of {file.mated_people} people with themselves cannot tell how many are missed: "
            f"{LEAST_MATED} of {LEAST_MATED_PEOPLE} people are the least. Enrol several photographs of some people, each under one user"
        )
    try:
        resampling = file.resampling(draws, seed)
        found = calibration_from(resampling, file.comparisons, progress)
    except BadRequest as error:
        raise BadRequest(
            f"{file.comparisons:,} comparisons of {int(file.person.max()) + 1:,} people make no calibration: they are too few, or the "
            "highest are of copies or of people under two users. Enrol more people, mend what aboveboard collection check lists"
        ) from error
    day = date or datetime.datetime.now(datetime.UTC).date()
    end = models.calibration.score_at(100) if models.calibration else 1.0
    return {
        "id": f"{day:%Y%m%d}",
        "model_version": version,
        **found,
        "data_set": data_set or f"collection {file.about['collection']}",
        "data_sha256": file.sha256,
        "audit_id": file.about["audit_id"],
        "subjects": int(file.person.max()) + 1,
        "photographs": file.size,
        "copies": resampling.pairs.errors_at(end),
        "mated": int(file.mated.sum()),
        "mated_subjects": file.mated_people,
        "non_mated": file.comparisons,
        "date": f"{day}",
        "draws": draws,
        "seed": seed,
        "pack": {"id": models.card.id, "files": {part.file: part.sha256 for part in models.card.files}},
        "libraries": {name: metadata.version(name) for name in ("numpy", "scipy")},
    }


def _spread(counts: Counts, seed: int, most: int | None = None) -> tuple[Scores, Counts]:
    """Scores, falling, and the row of each, out of counts (rows, BINS): spread evenly over their bins, rows by lot; the `most` highest."""
    total, first = counts.sum(axis=0), _first(counts, most)
    random, scores, rows = np.random.default_rng(seed), [np.empty(0)], [np.empty(0, np.int64)]
    for bin_ in range(BINS - 1, first - 1, -1):
        k = int(total[bin_])
        if k:
            scores.append(EDGES[bin_] + (EDGES[bin_ + 1] - EDGES[bin_]) * (1 - (np.arange(k) + 0.5) / k))
            rows.append(random.permutation(np.repeat(np.arange(len(counts)), counts[:, bin_])))
    return np.concatenate(scores), np.concatenate(rows)


def _kept(counts: NDArray[Any]) -> int:
    """How many of the highest scores are spread out of their bins."""
    return max(min(math.ceil(0.01 * int(counts.sum(dtype=np.int64))), _MOST_KEPT), _LEAST_KEPT)


def _first(counts: NDArray[Any], most: int | None) -> int:
    """The bin from which on the `most` highest scores lie; the lowest for all of them."""
    reaching = np.cumsum(counts.sum(axis=0, dtype=np.int64)[::-1])[::-1]
    return 0 if most is None or most >= reaching[0] else int(np.flatnonzero(reaching >= most)[-1])
