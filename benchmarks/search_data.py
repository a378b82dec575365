"""Templates to search among: a folder's own, face-like ones made after them, and plain synthetic ones of any dimension."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from templates import kept, people_of

from aboveboard import settings
from aboveboard.biometrics.scan import Rows, quantise, width
from aboveboard.vision.packs import PackFolder

PACK = "yunet-sface"
IMAGES, STEP = 3, 30_000
"""Synthetic templates of one person; templates that are made at once."""

Vectors = NDArray[np.float32]


def real(folder: Path, limit: int | None = None) -> tuple[Vectors, NDArray[np.int64]]:
    """Templates (n, d) of a folder of person/photograph, labels corrected, and whose each is. Kept in a file: making them takes minutes."""
    made = kept(people_of(folder)[:limit], PackFolder(settings.load().models).load(PACK))
    return made.features, np.unique([sample.subject for sample in made.samples], return_inverse=True)[1]


def unit(vectors: NDArray[np.float32]) -> Vectors:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def plain(n: int, d: int, seed: int = 0, tails: bool = False) -> Iterator[Vectors]:
    """Unit templates in blocks: people at random, a few images each, spread about their person so that mates score about 0.6.

    `tails`: numbers of Student's t with 3 degrees of freedom instead of normal ones.
    """
    random = np.random.default_rng(seed)
    for start in range(0, n, STEP):
        m = min(STEP, n - start)
        people = -(-m // IMAGES)
        draw = (
            (lambda *shape: random.standard_t(3, shape).astype(np.float32))
            if tails
            else (lambda *shape: random.standard_normal(shape, dtype=np.float32))
        )
        person = np.repeat(draw(people, d), IMAGES, axis=0)[:m]
        yield unit(person + 0.8 * draw(m, d))


def face_like(features: Vectors, people: NDArray[np.int64], n: int, seed: int = 1) -> Iterator[Vectors]:
    """Templates that follow real ones: persons drawn from a normal distribution with the mean and covariance of the real persons' means,
    images about them with the pooled covariance of the real images about their person's mean; then scaled to length 1."""
    counts = np.bincount(people)
    means = np.zeros((len(counts), features.shape[1]))
    np.add.at(means, people, features.astype(np.float64))
    means /= counts[:, None]
    several = counts[people] > 1
    within = (features[several] - means[people[several]]).astype(np.float64)
    # Divided by what is left of freedom: a mean of few images takes some of their spread with it.
    inner = within.T @ within / (several.sum() - np.count_nonzero(counts > 1))
    # A mean of m images holds 1/m of the inner spread besides the people's own.
    outer = np.cov(means.T) - inner * np.mean(1 / counts)
    roots = [_root(outer), _root(inner)]
    random = np.random.default_rng(seed)
    centre = means.mean(axis=0)
    for start in range(0, n, STEP):
        m = min(STEP, n - start)
        person = centre + random.standard_normal((-(-m // IMAGES), len(centre))) @ roots[0]
        images = np.repeat(person, IMAGES, axis=0)[:m] + random.standard_normal((m, len(centre))) @ roots[1]
        yield unit(images.astype(np.float32))


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def gathered(blocks: Iterator[Vectors], n: int, d: int) -> Vectors:
    """All blocks as one matrix (n, d)."""
    matrix, end = np.empty((n, d), np.float32), 0
    for block in blocks:
        matrix[end : end + len(block)] = block
        end += len(block)
    return matrix


def quantised(blocks: Iterator[Vectors], n: int, d: int) -> Rows:
    """All blocks as rows for the scan, on huge pages (numpy asks for them), never more than a block in float32."""
    rows = Rows(np.empty((n, width(d)), np.int8), np.empty(n, np.float32), np.empty(n, np.float32))
    end = 0
    for block in blocks:
        for start in range(0, len(block), 8192):
            piece = quantise(block[start : start + 8192])
            for target, source in zip(rows, piece, strict=True):
                target[end : end + len(source)] = source
            end += len(piece.scales)
    return rows
