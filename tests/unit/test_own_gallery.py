"""A calibration made from a gallery's counted scores, beside one made from all comparisons of the same templates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aboveboard.biometrics.calibration import Calibration, similarity_at
from aboveboard.biometrics.gallery import BINS, EDGES, histogram
from aboveboard.errors import BadRequest
from aboveboard.evaluation.metrics import Resampling, all_pairs, interval
from aboveboard.evaluation.own_gallery import GalleryFile, calibrate_on
from aboveboard.vision.packs import Models, PackFolder

PEOPLE, FACES, SAMPLED = 600, 2, 400


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Two templates of each of 600 people, in 32 dimensions."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(PEOPLE, 32)), FACES, axis=0) + 0.5 * rng.normal(size=(PEOPLE * FACES, 32))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def models() -> Models:
    return PackFolder(Path("/nonexistent")).load("null")


def crowded(faces: int) -> np.ndarray:
    """Counts of a sample of a gallery of so many faces, all of whose comparisons lie in one bin."""
    counts = np.zeros((SAMPLED, BINS), int)
    counts[:, BINS // 2] = faces - 1
    return counts


def about(size: float) -> np.ndarray:
    """What such a file says of a gallery of that size."""
    return np.array(json.dumps({"audit_id": "a", "collection": "c", "model": "0.1", "gallery": {"size": size}}))


def write(file: Path, vectors: np.ndarray, **changed: object) -> Path:
    """What `collection scores` writes of a gallery of these faces."""
    person = np.arange(len(vectors)) // FACES
    sampled = np.random.default_rng(1).permutation(len(vectors))[:SAMPLED]
    scores = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    counts = [histogram(scores[i][person != person[i]]) for i in sampled]
    mated = histogram(np.array([scores[2 * i, 2 * i + 1] for i in range(PEOPLE)]))
    said = {"audit_id": "a", "collection": "bookings", "calibration": "0", "model": "0.1", "gallery": {"size": len(vectors)}}
    arrays = {"counts": np.array(counts, np.int32), "person": person[sampled], "has_user": np.ones(SAMPLED, bool), "edges": EDGES}
    np.savez_compressed(file, **{"about": np.array(json.dumps(said)), "mated": mated, "mated_people": PEOPLE, **arrays, **changed})
    return file


def test_it_is_what_all_comparisons_make(vectors: np.ndarray, models: Models, tmp_path: Path) -> None:
    """FMR, misses, ratios and the tail agree with the truth of the gallery, as far as the sample tells; every part has its origin."""
    document = calibrate_on(GalleryFile.read(write(tmp_path / "counts.npz", vectors)), models, draws=60)
    calibration = Calibration.from_json(json.dumps(document))
    whole = all_pairs(vectors, [i // FACES for i in range(len(vectors))])
    for rate in (1e-1, 1e-2, 1e-3):
        assert whole.fmr_at(calibration.score_at(similarity_at(rate))) == pytest.approx(rate, rel=0.12)
    assert calibration.fnmr(similarity_at(1e-3)) == pytest.approx(1 - whole.tar_at(calibration.score_at(similarity_at(1e-3))), abs=0.01)
    once = SAMPLED * (len(vectors) - 1) - SAMPLED * (SAMPLED - 1) / 2
    assert document["non_mated"] == pytest.approx(once, rel=0.005)
    assert calibration.ratios.most <= document["non_mated"] / 30 * 1.001
    assert (document["mated"], document["mated_subjects"], document["photographs"], document["copies"]) == (PEOPLE, PEOPLE, 1200, 0)
    assert document["data_set"] == "collection bookings"
    assert calibrate_on(GalleryFile.read(tmp_path / "counts.npz"), models, draws=60)["curve"] == document["curve"]


def test_its_intervals_are_as_wide_as_those_of_resampling_people_on_both_sides(vectors: np.ndarray, tmp_path: Path) -> None:
    file = GalleryFile.read(write(tmp_path / "counts.npz", vectors))
    whole = all_pairs(vectors, [i // FACES for i in range(len(vectors))])
    score = whole.threshold_for(1e-2)
    low, high = interval(file.resampling(400, 0).fmr_at([score])[:, 0])
    oracle_low, oracle_high = interval(Resampling.of(whole, 400).fmr_at([score])[:, 0])
    # All faces are on one side here, two thirds of the people on the other: a little wider than with all on both.
    assert 0.8 < np.log(high / low) / np.log(oracle_high / oracle_low) < 1.8


def test_what_cannot_be_calibrated_on_says_what_to_do(vectors: np.ndarray, models: Models, tmp_path: Path) -> None:
    unknown = write(tmp_path / "unknown.npz", vectors, has_user=np.arange(SAMPLED) % 2 == 0)
    with pytest.raises(BadRequest, match="AssociateFaces"):
        GalleryFile.read(unknown)
    single = write(tmp_path / "single.npz", vectors, mated=np.zeros(BINS, np.int64), mated_people=0)
    with pytest.raises(BadRequest, match="several photographs of some people"):
        calibrate_on(GalleryFile.read(single), models, draws=20)
    few = write(tmp_path / "few.npz", vectors, counts=np.ones((2, BINS), int), person=np.arange(2), has_user=np.ones(2, bool))
    with pytest.raises(BadRequest, match="collection check"):
        calibrate_on(GalleryFile.read(few), models, draws=20)
    other = np.array(json.dumps({"audit_id": "a", "collection": "c", "model": "9.9", "gallery": {"size": 1200}}))
    with pytest.raises(BadRequest, match="model version 9"):
        calibrate_on(GalleryFile.read(write(tmp_path / "other.npz", vectors, about=other)), models, draws=20)


@pytest.mark.parametrize(
    "broken",
    [{"counts": np.zeros((3, 5))}, {"counts": np.zeros((SAMPLED, BINS))},
     {"counts": np.zeros((0, BINS)), "person": np.zeros(0), "has_user": np.zeros(0)}, {"counts": np.full((SAMPLED, BINS), -1)},
     {"about": np.array("{")}, {"person": np.zeros(2)},
     {"about": np.array([{}], object)}, {"mated": np.zeros((1, BINS))},
     {"about": about(float("inf"))}, {"about": about(10**30)}, {"about": about(900)},
     {"has_user": np.ones((1, SAMPLED), bool), "person": np.zeros((1, SAMPLED), int)},
     {"about": about(1), "has_user": np.ones(1, bool), "person": np.zeros(1, int), "counts": np.ones((1, BINS), int)},
     {"counts": np.full((SAMPLED, BINS), 2)}, {"counts": np.full((SAMPLED, BINS), 0.5)}, {"counts": np.full((SAMPLED, BINS), 2**62)},
     {"person": np.full(SAMPLED, np.nan)}, {"person": np.zeros(SAMPLED, int)}, {"mated": np.full(BINS, 2**53)},
     {"mated_people": np.array([[1, 2]])}, {"counts": np.zeros((30_000, BINS), np.int8)},
     {"about": about(50_000_000), "counts": crowded(50_000_000)}, {"mated": np.full(BINS, 40_000)}],
)  # fmt: skip
def test_a_broken_file_is_refused(vectors: np.ndarray, tmp_path: Path, broken: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match="collection scores"):
        GalleryFile.read(write(tmp_path / "broken.npz", vectors, **broken))


def test_a_damaged_file_is_refused(vectors: np.ndarray, tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "whole.npz", vectors).read_bytes())
    content[120] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(content)
    with pytest.raises(BadRequest, match="collection scores"):
        GalleryFile.read(tmp_path / "flipped.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(BadRequest, match="collection scores"):
        GalleryFile.read(tmp_path / "text.npz")
