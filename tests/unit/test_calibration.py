"""What a similarity means: anchors, formulas with their vectors, the shipped calibrations, errata and the centre face."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from aboveboard.biometrics import calibration as scale
from aboveboard.biometrics.calibration import Calibration
from aboveboard.errors import BadRequest
from aboveboard.evaluation import calibrating, protocol
from aboveboard.evaluation.drawn import null_calibration
from aboveboard.evaluation.metrics import Pairs, all_pairs
from aboveboard.evaluation.protocol import Errata, Sample, correct, read_errata, shipped_errata
from aboveboard.vision.detector import Detection

SHIPPED = ["yunet-sface.json", "null.json"]
HEAD = "name,action,to,reason,source\n"


def shipped(name: str) -> tuple[Calibration, dict]:
    text = (resources.files("aboveboard") / "calibrations" / name).read_text()
    return Calibration.from_json(text), json.loads(text)


@pytest.mark.parametrize(("similarity", "fmr"), [(0, 0.5), (80, 2e-6), (95, 3.05e-8), (99, 1e-8), (100, 1e-12)])
def test_anchors(similarity: float, fmr: float) -> None:
    assert scale.fmr_at(similarity) == pytest.approx(fmr, rel=1e-3)
    assert scale.similarity_at(scale.fmr_at(similarity)) == pytest.approx(similarity)


def test_rates_outside_the_anchors_end_the_scale() -> None:
    assert scale.similarity_at(0.9) == 0
    assert scale.similarity_at(1e-15) == scale.similarity_at(0) == 100


@pytest.mark.parametrize(
    ("fmr", "gallery_size", "fpir"),
    [(2.15e-6, 25_000, 0.0523), (2.15e-6, 300_000, 0.4753), (1e-6, 300_000, 0.2592), (1e-8, 300_000, 0.002996)],
)
def test_fpir_vectors(fmr: float, gallery_size: int, fpir: float) -> None:
    assert scale.fpir(fmr, gallery_size) == pytest.approx(fpir, rel=1e-3)


def test_expected_false_candidates() -> None:
    assert scale.expected_false(2.15e-6, 300_000) == pytest.approx(0.645)
    assert scale.fmr_at(scale.similarity_for(0.01, 300_000)) == pytest.approx(0.01 / 300_000)
    assert scale.fpir(scale.fmr_at(99), 300_000) == pytest.approx(0.003, rel=0.01)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_calibrations_say_where_they_come_from(name: str) -> None:
    calibration, document = shipped(name)
    assert calibration.id.isdigit()
    assert document["date"] == "2026-11-23"
    for key in ("data_set", "subjects", "mated", "non_mated", "pack"):
        assert calibration.provenance[key]
    assert document["measured_limit"] == pytest.approx(30 / document["non_mated"])


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_scales_span_from_any_face_to_the_same_photograph(name: str) -> None:
    calibration, _ = shipped(name)
    assert calibration.similarity(1.0) == calibration.similarity(0.999) == 100
    assert calibration.similarity(-1.0) == 0
    assert calibration.score_at(80) < calibration.score_at(99) < calibration.score_at(100) < 0.999
    assert not calibration.extrapolated(80)
    assert calibration.extrapolated(99)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_curves_lie_in_their_intervals(name: str) -> None:
    _, document = shipped(name)
    origins = [point["origin"] for point in document["curve"]]
    assert origins == sorted(origins), "measured first, then the tail"
    for point in document["curve"]:
        assert point["low"] <= point["fmr"] <= point["high"]
        assert (point["origin"] == "measured") == (point["fmr"] >= document["measured_limit"] * (1 - 1e-6))
    misses = [point["fnmr"] for point in document["misses"]]
    assert misses == sorted(misses)


def test_shipped_calibration_of_the_default_pack() -> None:
    calibration, document = shipped("yunet-sface.json")
    assert document["errata"]["sha256"] == shipped_errata().sha256, "the errata changed: calibrate anew"
    assert document["non_mated"] > 18_900_000
    assert calibration.fnmr(80) < 0.04
    for anchor in document["anchors"]:
        assert calibration.score_at(anchor["similarity"]) <= anchor["score"] + 1e-5
        if anchor["score_interval"]:
            low, high = anchor["score_interval"]
            assert low < anchor["score"] < high


def test_null_theory_fits_the_drawn_faces() -> None:
    document = null_calibration("2026-11-23", subjects=600)
    assert 50 < document["dimensions"] < 64
    assert [entry["found"] / entry["promised"] for entry in document["check"][:3]] == pytest.approx([1] * 3, abs=0.25)
    Calibration.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"id": 1, "model_version": "1", "curve": [], "misses": [], "measured_limit": 1}',
        json.dumps({"id": "1", "model_version": "1", "measured_limit": 1e-3, "misses": [{"score": 0, "fnmr": 0}],
                    "curve": [{"score": 0.1, "fmr": 0.5}, {"score": 0.1, "fmr": 0.1}]}),
        json.dumps({"id": "1", "model_version": "1", "measured_limit": 1e-3, "misses": [{"score": 0, "fnmr": 0}],
                    "curve": [{"score": 0.1, "fmr": 0.5}, {"score": 0.2, "fmr": 0.5}]}),
    ],
)  # fmt: skip
def test_what_is_no_calibration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="aboveboard calibrate"):
        Calibration.from_json(text)


def normal_pairs(persons: int = 150, spread: float = 0.6) -> Pairs:
    rng = np.random.default_rng(0)
    people = rng.normal(size=(persons, 32))
    rows = np.repeat(people, 2, axis=0) + rng.normal(size=(2 * persons, 32)) * spread
    return all_pairs((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), [i // 2 for i in range(2 * persons)])


def test_a_calibration_is_monotone_reaches_the_end_and_repeats_itself() -> None:
    pairs = normal_pairs()
    document = calibrating.calibration_of(pairs, draws=40)
    assert document == calibrating.calibration_of(pairs, draws=40)
    calibration = Calibration.from_json(
        json.dumps({"id": "1", "model_version": "1", "mated": pairs.mated_size, "non_mated": pairs.non_mated_size, **document})
    )
    assert calibration.similarity(0.999) == 100
    assert calibration.measured_limit == 30 / pairs.non_mated_size
    assert 0 < calibration.fnmr(80) < 1
    promised = scale.similarity_at(1e-2)
    assert pairs.fmr_at(calibration.score_at(promised)) == pytest.approx(1e-2, rel=0.1)


def test_a_tail_that_would_pass_the_top_is_cut_there() -> None:
    document = calibrating.calibration_of(normal_pairs(spread=0.05), draws=20)
    assert document["curve"][-1]["fmr"] == 1e-12
    assert document["curve"][-1]["score"] <= calibrating.NOTIONAL_END


def test_too_few_people_cannot_calibrate() -> None:
    with pytest.raises(BadRequest, match="too few to calibrate"):
        calibrating.calibration_of(normal_pairs(20), draws=5)


def test_one_photograph_under_many_names_cannot_calibrate() -> None:
    rows = np.tile(np.eye(1, 8), (200, 1)).astype(np.float32)
    mixed = np.concatenate([rows[:40], np.random.default_rng(0).normal(size=(160, 8)).astype(np.float32)])
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    with pytest.raises(BadRequest, match="two names"):
        calibrating.calibration_of(all_pairs(mixed, list(range(200))), draws=5)


def samples(*names: str) -> list[Sample]:
    return [Sample(name.split("/")[0], name, Path(name)) for name in names]


def test_errata_drop_move_and_merge() -> None:
    errata = read_errata(
        HEAD
        + "A/1.jpg,drop,,same photograph as B/1.jpg,seen\nA/2.jpg,move,C,shows C,seen\n"
        + "C,merge,D,two spellings,seen\nX,merge,Y,not here,seen\n"
    )
    corrected, done = correct(samples("A/1.jpg", "A/2.jpg", "A/3.jpg", "C/1.jpg", "D/1.jpg"), errata)
    assert [(sample.name, sample.subject) for sample in corrected] == [
        ("A/2.jpg", "D"), ("A/3.jpg", "A"), ("C/1.jpg", "D"), ("D/1.jpg", "D"),
    ]  # fmt: skip
    assert done == {"dropped": 1, "moved": 1, "merged": 1}


def test_no_errata_change_nothing() -> None:
    assert correct(samples("A/1.jpg", "B/1.jpg"), Errata())[0] == samples("A/1.jpg", "B/1.jpg")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("A/1.jpg,burn,,why,seen", "drop or move"),
        ("A/1.jpg,merge,B,why,seen", "drop or move"),
        ("A,drop,,why,seen", "drop or move"),
        ("A/1.jpg,drop,B,why,seen", "drop must have none"),
        ("A/1.jpg,move,,why,seen", "need the person"),
        ("A/1.jpg,drop,,,seen", "reason and source"),
        ("A/1.jpg,drop,,why", "5 fields"),
        ("A/1.jpg,drop,,why, with a comma,seen", "5 fields"),
        ("A/1.jpg,drop,,why,seen\nA/1.jpg,drop,,why,seen", "twice"),
    ],
)
def test_bad_errata_are_refused_with_their_line(rows: str, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem) as refusal:
        read_errata(HEAD + rows + "\n")
    assert "line " in refusal.value.message


def test_errata_with_other_columns_or_circles_are_refused() -> None:
    with pytest.raises(BadRequest, match="columns"):
        read_errata("name,to\nA,B\n")
    with pytest.raises(BadRequest, match="into itself"):
        correct(samples("A/1.jpg"), read_errata(HEAD + "A,merge,B,why,seen\nB,merge,A,why,seen\n"))


def test_shipped_errata_hold_the_site_s_list() -> None:
    entries = {entry.name: entry for entry in shipped_errata().entries}
    numbers = {int(entry.source.removeprefix("LFW site errata ")) for entry in entries.values() if entry.source.startswith("LFW site")}
    assert numbers == set(range(1, 24))
    assert entries["Debra_Messing/Debra_Messing_0002.jpg"].action == "move"
    assert not any("Olsen" in name or "Mowry" in name for name in entries), "withdrawn, and correct twins"


def detection(x: float, y: float, width: float, height: float) -> Detection:
    return Detection(np.array([x, y, width, height], np.float32), np.zeros((5, 2), np.float32), 0.9)


def test_the_centre_face_counts_unless_another_is_much_larger() -> None:
    middle, corner, huge = detection(90, 90, 60, 70), detection(0, 0, 80, 90), detection(20, 20, 200, 220)
    assert protocol.centre_face([corner, middle], 250, 250) is middle
    assert protocol.centre_face([middle, huge], 250, 250) is huge
    assert protocol.centre_face([], 250, 250) is None


def test_a_folder_is_people_with_photographs(tmp_path: Path) -> None:
    (tmp_path / "A").mkdir()
    for name in ("A/2.PNG", "A/1.jpg", "A/notes.txt", "members.csv"):
        (tmp_path / name).write_bytes(b"")
    assert [sample.name for sample in protocol.read_folder(tmp_path)] == ["A/1.jpg", "A/2.PNG"]
    for folder in (tmp_path / "A", tmp_path / "nowhere"):
        with pytest.raises(BadRequest):
            protocol.read_folder(folder)


def test_the_content_hash_knows_names_and_bytes_not_places(tmp_path: Path) -> None:
    hashes = set()
    for place, content in (("x", b"1"), ("y", b"1"), ("z", b"2")):
        (tmp_path / place / "A").mkdir(parents=True)
        (tmp_path / place / "A" / "1.jpg").write_bytes(content)
        hashes.add(protocol.content_hash(protocol.read_folder(tmp_path / place)))
    assert len(hashes) == 2


@pytest.mark.parametrize("name", SHIPPED)
def test_the_best_of_m_stands_for_the_rate_of_m_comparisons(name):
    """FMR_person = 1 - (1 - FMR)^m; `alone` is the way back; the end of the curve is the end for everybody."""
    calibration, _ = shipped(name)
    for m in (1, 2, 10, 100):
        for similarity in (20.0, 80.0, 95.0):
            score = calibration.score_at(scale.alone(similarity, m))
            assert calibration.similarity_of_best(score, m) == pytest.approx(similarity, abs=1e-6)
            one = scale.fmr_at(calibration.similarity(score))
            assert scale.fmr_at(similarity) == pytest.approx(1 - (1 - one) ** m, rel=1e-6)
        assert calibration.similarity_of_best(calibration.scores[-1], m) == calibration.similarity(calibration.scores[-1])
