"""Likelihood ratios of a calibration and posteriors of candidates, against lir (NFI's) and against what happens in simulated searches."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from lir.algorithms.bayeserror import elub
from lir.algorithms.isotonic_regression import IsotonicCalibrator

from aboveboard.biometrics.calibration import Calibration
from aboveboard.biometrics.evidence import Owners, posterior
from aboveboard.evaluation import likelihood, metrics
from aboveboard.evaluation.calibrating import ratios_document
from aboveboard.evaluation.metrics import Pairs, Resampling, all_pairs
from aboveboard.service import packet_evidence

CURVE = {"id": "1", "model_version": "1", "measured_limit": 1e-3, "curve": [{"score": 0.0, "fmr": 0.5}, {"score": 0.9, "fmr": 1e-12}],
         "misses": [{"score": step / 100, "fnmr": (step + 100) / 200} for step in range(-100, 101)]}  # fmt: skip
COUNTED = {"mated": 3000, "non_mated": 30_000}

MANY = {"mated": 10**6, "non_mated": 10**6}


@pytest.fixture(scope="module")
def scores() -> tuple[np.ndarray, np.ndarray]:
    """Mated and non-mated comparison scores."""
    rng = np.random.default_rng(3)
    return np.clip(rng.normal(0.6, 0.15, 3000), -1, 1), np.clip(rng.normal(0.0, 0.12, 30000), -1, 1)


@pytest.fixture(scope="module")
def calibration(scores: tuple[np.ndarray, np.ndarray]) -> Calibration:
    mated, non_mated = scores
    document = CURVE | {"ratios": document_of(mated, non_mated), "mated": len(mated), "non_mated": len(non_mated)}
    return Calibration.from_json(json.dumps(document))


def document_of(mated: np.ndarray, non_mated: np.ndarray) -> dict[str, object]:
    """Ratios whose interval is of a single draw, of everybody."""
    is_mated, counts = metrics.binned(mated), metrics.binned(non_mated)
    return ratios_document(mated, counts, 0, [(is_mated.astype(np.float64), counts.astype(np.float64))])


def test_ratios_equal_lir(scores: tuple[np.ndarray, np.ndarray]) -> None:
    """The same steps as the isotonic calibrator of lir finds in the same scores, with one of each kind beyond both ends."""
    mated, non_mated = scores
    ends = np.array([-2.0, 2.0])
    x, y = np.concatenate([mated, ends, non_mated, ends]), np.repeat([1.0, 0.0], [mated.size + 2, non_mated.size + 2])
    oracle = IsotonicCalibrator().fit(x, y)
    asked = np.concatenate([mated[:500], non_mated[:500]])
    ours = likelihood.ratios_of(mated, non_mated).at(asked)
    assert ours == pytest.approx(oracle.transform(asked) * math.log(10), rel=1e-6, abs=1e-6)


def test_a_file_has_the_steps_bounded_by_what_its_comparisons_can_tell(
    scores: tuple[np.ndarray, np.ndarray], calibration: Calibration
) -> None:
    mated, non_mated = scores
    ratios = calibration.ratios
    assert ratios is not None
    assert ratios.most == pytest.approx(non_mated.size / 30, rel=1e-3), "the rule of 30"
    assert ratios.least >= 30 / mated.size * 0.999
    whole = likelihood.ratios_of(mated, non_mated).bounded(ratios.least, ratios.most)
    asked = np.linspace(-0.5, 1, 301)
    # Scores lie in bins of 1e-4: a step may be off by one.
    assert np.median(np.abs(ratios.at(asked) - whole.at(asked))) < 0.01
    llr = np.concatenate([whole.at(mated), whole.at(non_mated)]) / math.log(10)
    _, most = elub(llr, np.repeat([1, 0], [mated.size, non_mated.size]))
    assert math.log10(ratios.most) <= most + 0.02, "no less cautious than ELUB (Vergeer et al. 2016)"


def test_ratios_of_other_people_are_rarely_high() -> None:
    """Of non-mated comparisons that a calibration never saw at most one in x has a ratio of x, but for chance."""
    rng = np.random.default_rng(5)
    document = document_of(np.clip(rng.normal(0.6, 0.15, 3000), -1, 1), np.clip(rng.normal(0, 0.12, 30000), -1, 1))
    ratios = Calibration.from_json(json.dumps(CURVE | COUNTED | {"ratios": document})).ratios
    others = np.exp(ratios.at(np.clip(rng.normal(0, 0.12, 300_000), -1, 1)))
    for x in (10, 100, 900):
        assert np.mean(others >= x) <= 1.3 / x
    assert np.mean(1 / np.exp(ratios.at(np.clip(rng.normal(0.6, 0.15, 30_000), -1, 1)))) <= 1.1


def test_files_from_before_have_none_and_bad_ones_are_refused() -> None:
    before = Calibration.from_json(json.dumps(CURVE))
    assert before.ratios is None
    with pytest.raises(ValueError, match="no likelihood ratios"):
        before.evidence([0.5], 80, 10, 0.5)
    for points in ([], [{"score": 0.1, "log10_lr": 1}, {"score": 0.2, "log10_lr": 0}], [{"score": 0.1, "log10_lr": float("nan")}],
                   [{"score": 0.1, "log10_lr": 1}, {"score": 0.1, "log10_lr": 2}], [{"score": 0.1}]):  # fmt: skip
        with pytest.raises(ValueError, match="aboveboard calibrate"):
            Calibration.from_json(json.dumps(CURVE | COUNTED | {"ratios": {"points": points}}))


@pytest.mark.parametrize(
    "changed",
    [{"log10_lr": 12}, {"log10_lr": -9}, {"log10_lr": 1e6}, {"log10_lr": 10**400}, {"non_mated": "many"}, {"non_mated": None},
     {"mated": [3000]}, {"non_mated": 10**400}, {"fnmr": 5}, {"fnmr": float("nan")}],
)  # fmt: skip
def test_a_file_that_claims_more_than_its_comparisons_can_tell_is_refused(changed: dict[str, object]) -> None:
    """On reading: not after a search was recorded."""
    point = {"score": 0.3, "log10_lr": changed.get("log10_lr", 2)}
    misses = [{"score": 0, "fnmr": changed.get("fnmr", 0)}]
    with pytest.raises(ValueError, match="aboveboard calibrate"):
        Calibration.from_json(json.dumps(CURVE | COUNTED | {"misses": misses, "ratios": {"points": [point]}} | changed))
    assert Calibration.from_json(json.dumps(CURVE | COUNTED | {"ratios": {"points": [{"score": 0.3, "log10_lr": 2}]}})).ratios is not None


def people(seed: int, count: int) -> Pairs:
    """All comparisons of three templates of each of so many people, some of whom vary more than others."""
    rng = np.random.default_rng(seed)
    spread = np.repeat(rng.uniform(0.3, 0.9, size=(count, 1)), 3, axis=0)
    rows = np.repeat(rng.normal(size=(count, 24)), 3, axis=0) + spread * rng.normal(size=(3 * count, 24))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return all_pairs(vectors, np.repeat(np.arange(count), 3).tolist())


@pytest.mark.long
def test_a_ratio_s_interval_holds_that_of_all_people_as_often_as_it_says() -> None:
    """24 calibrations of 200 people, whose intervals draw people, against the ratios of 3,000 others."""
    others = [people(1000 + i, 1000) for i in range(3)]
    mated = sum(metrics.binned(pairs.mated) for pairs in others).reshape(-1, 100).sum(axis=1)
    non_mated = sum(pairs.counts for pairs in others).reshape(-1, 100).sum(axis=1)
    centres = metrics.CENTRES.reshape(-1, 100).mean(axis=1)
    asked = np.flatnonzero((centres > 0.3) & (non_mated >= 100))[::4]
    true = np.log10(mated[asked] / mated.sum() / (non_mated[asked] / non_mated.sum()))
    held = []
    for seed in range(24):
        pairs = people(seed, 200)
        points = ratios_document(pairs.mated, pairs.counts, 0, Resampling.of(pairs, 200).binned())["points"]
        score, low, high = ([point[name] for point in points] for name in ("score", "log10_low", "log10_high"))
        said = np.minimum(true, np.log10(pairs.non_mated_size / 30))
        held.append((np.interp(centres[asked], score, low) <= said + 1e-4) & (said <= np.interp(centres[asked], score, high) + 1e-4))
    assert len(asked) >= 10
    assert np.mean(held) > 0.9
    assert np.min(np.mean(held, axis=0)) > 0.75, "and nowhere much less often"


def test_a_ratio_says_how_many_pairs_it_rests_on(scores: tuple[np.ndarray, np.ndarray], calibration: Calibration) -> None:
    """Those of the step that its score lies in: together all of them, and their shares make the ratio."""
    mated, non_mated = scores
    points = json.loads(calibration.text)["ratios"]["points"]
    steps = {point["log10_lr"]: (point["mated"], point["non_mated"]) for point in points}
    assert tuple(map(sum, zip(*steps.values(), strict=True))) == (mated.size, non_mated.size)
    for point in points[2:-2]:
        (said,) = calibration.evidence([point["score"]], 0, 10, None)
        assert said.ratio == pytest.approx((said.mated / mated.size) / (said.non_mated / non_mated.size), rel=1e-3)
    beyond, gap = calibration.evidence([0.99, (points[3]["score"] + points[4]["score"]) / 2], 0, 10, None)
    assert (beyond.non_mated, beyond.is_most) == (points[-1]["non_mated"], True)
    assert (gap.mated, gap.non_mated) == tuple(min(points[3][kind], points[4][kind]) for kind in ("mated", "non_mated"))


def test_the_interval_of_a_ratio_holds_the_factor_s_too(calibration: Calibration) -> None:
    (plain,) = calibration.evidence([0.45], 0, 10, None)
    (divided,) = calibration.evidence([0.45], 0, 10, None, 4.0, (2.0, 8.0))
    assert (divided.low, divided.ratio, divided.high) == pytest.approx((plain.low / 8, plain.ratio / 4, plain.high / 2))
    (below,) = calibration.evidence([0.45], 0, 10, None, 1.0, (0.5, 3.0))
    assert (below.low, below.high) == pytest.approx((plain.low / 3, plain.high)), "a factor below 1 adds nothing to a ratio"


@pytest.mark.parametrize(
    "changed",
    [
        {"log10_low": 3},
        {"log10_high": 1},
        {"log10_low": float("nan")},
        {"mated": -1},
        {"mated": 3001},
        {"non_mated": 1.5},
        {"log10_high": None},
    ],
)
def test_a_file_whose_ratios_do_not_rest_on_what_it_has_is_refused(changed: dict[str, object]) -> None:
    point = {"score": 0.3, "log10_lr": 2, "log10_low": 1.5, "log10_high": 2.5, "mated": 40, "non_mated": 4}
    made = Calibration.from_json(json.dumps(CURVE | COUNTED | {"ratios": {"points": [point]}}))
    (said,) = made.evidence([0.3], 0, 10, None)
    assert (said.low, said.high, said.mated, said.non_mated) == (pytest.approx(10**1.5), pytest.approx(10**2.5), 40, 4)
    with pytest.raises(ValueError, match="aboveboard calibrate"):
        Calibration.from_json(json.dumps(CURVE | COUNTED | {"ratios": {"points": [point | changed]}}))


def test_evidence_has_its_bound_and_needs_a_prior_for_a_posterior(calibration: Calibration) -> None:
    low, high, top = calibration.evidence([0.2, 0.45, 0.9], 30, 100, None)
    assert low.ratio < high.ratio <= top.ratio == pytest.approx(calibration.ratios.most)
    assert (low.is_most, top.is_most) == (False, True)
    assert {one.posterior for one in (low, high, top)} == {None}
    even = calibration.evidence([0.45], 30, 100, 0.5)[0].posterior
    assert calibration.evidence([0.45], 30, 100, 0.01)[0].posterior < even < calibration.evidence([0.45], 30, 100, 0.9)[0].posterior
    assert calibration.evidence([0.45], 30, 100_000, 0.5)[0].posterior < even, "among more people it is less"


def test_a_ratio_in_a_gap_of_the_data_is_open() -> None:
    """A small calibration knows nothing between its highest non-mated and its lowest mated scores."""
    points = [
        {"score": 0.1, "log10_lr": -0.7},
        {"score": 0.5, "log10_lr": -0.7},
        {"score": 0.7, "log10_lr": 3.8},
        {"score": 0.8, "log10_lr": 4},
    ]
    calibration = Calibration.from_json(json.dumps(CURVE | MANY | {"ratios": {"points": points}}))
    found = calibration.evidence([0.05, 0.3, 0.5, 0.51, 0.69, 0.7, 0.75, 0.9], 0, 10, None)
    assert [one.is_open for one in found] == [False, False, False, True, True, False, False, False]


def test_a_prior_that_counts_people_gives_each_the_same_share_however_many_faces_he_has(calibration: Calibration) -> None:
    """3 people with 1, 2 and 4 faces: who is as alike at each of his faces is as probable as who has one."""
    ratios, owners = [50.0, 50.0, 50.0, 50.0, 50.0, 50.0, 50.0], Owners((1, 2, 2, 4, 4, 4, 4), (1, 2, 2, 4, 4, 4, 4))
    each = posterior(0.5, 3, ratios, 0.0, owners)
    assert each == pytest.approx(np.full(7, each[0]))
    assert each[0] == pytest.approx(0.5 / 3 * 50 / (0.5 + 0.5 / 3 * 150))
    alone = posterior(0.5, 3, [50.0], 0.0, Owners((1,), (4,)))
    assert alone == pytest.approx(0.5 / 3 * 12.5 / (0.5 + 0.5 / 3 * 12.5)), "one face of four that is alike is worth a quarter"
    assert posterior(0.5, 3, [50.0, 20.0], 0.1, Owners((1, 2), (1, 1))) == pytest.approx(posterior(0.5, 3, [50.0, 20.0], 0.1))
    by_person = calibration.evidence([0.45, 0.44], 10, 2, 0.5, owners=Owners((1, 1), (2, 2)))
    assert by_person[0].posterior == by_person[1].posterior
    shown = look([60.0, 59.0], people=2)
    shown["candidates"] = [one | {"person": 1, "faces": 2} for one in shown["candidates"]]
    (said,) = packet_evidence.of_record({"looks": [shown]}, {"c": calibration})
    scores = [calibration.score_at(60.0), calibration.score_at(59.0)]
    told = calibration.evidence(scores, 10, 2, 0.5, owners=Owners((1, 1), (2, 2)))[0].posterior
    assert [one["posteriors"]["0.5"] for one in said["candidates"]] == pytest.approx([told, told], rel=0.01)


def test_posteriors_of_people_with_unequal_numbers_of_faces_are_what_happens() -> None:
    """20,000 searches of 60 people with 1 to 8 faces each, whose scores hang together: of those given p, at most p are right."""
    rng = np.random.default_rng(9)
    faces = np.repeat([1, 2, 8], 20)
    owner, said, true = np.repeat(np.arange(60), faces), [], []
    for _ in range(20_000):
        scores, mate = (rng.normal(0, 1, 60)[owner] + rng.normal(0, 1, owner.size)) / math.sqrt(2), rng.integers(0, 120)
        scores[owner == mate] += 3.0
        chances = posterior(0.5, 60, np.exp(3.0 * scores - 4.5), 0.0, Owners(owner.tolist(), faces[owner].tolist()))
        one = int(chances.argmax())
        said.append(chances[one])
        true.append(owner[one] == mate)
    said, true = np.array(said), np.array(true)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (said >= low) & (said < high)
        assert np.count_nonzero(inside) > 300
        assert said[inside].mean() == pytest.approx(true[inside].mean(), abs=0.1)


def look(similarities: list[float], **changed: object) -> dict[str, object]:
    """A look as the record of a packet has it."""
    shown = {"look": 1, "duty": "search.image", "limit": 80, "threshold": {"value": 10}, "gallery_size": 300, "gallery_factor": None}
    candidates = [{"name": f"candidate {i}", "similarity": one} for i, one in enumerate(similarities, 1)]
    return {**shown, "calibration": {"sha256": "c"}, "candidates": candidates, **changed}


def test_a_packet_shows_intervals_where_its_calibration_has_them(calibration: Calibration) -> None:
    """And says of an older one what it said before there were any: such packets verify as they did."""
    (said,) = packet_evidence.of_record({"looks": [look([60.0])]}, {"c": calibration})
    (one,) = said["candidates"]
    (told,) = calibration.evidence([calibration.score_at(60.0)], 10, 300, None)
    assert (one["low"], one["high"]) == (pytest.approx(told.low, rel=0.01), pytest.approx(told.high, rel=0.01))
    assert (one["mated_pairs"], one["non_mated_pairs"]) == (told.mated, told.non_mated)
    points = [{"score": 0.1, "log10_lr": -1}, {"score": 0.8, "log10_lr": 3}]
    older = Calibration.from_json(json.dumps(CURVE | MANY | {"ratios": {"points": points}}))
    ((before,),) = (one["candidates"] for one in packet_evidence.of_record({"looks": [look([60.0])]}, {"c": older}))
    assert list(before) == ["name", "likelihood_ratio", "is_most", "is_open", "posteriors"]


def test_a_packet_says_of_a_candidate_what_a_search_said() -> None:
    """Ratio and posteriors, from the similarity that the record keeps: between the points of curve and ratios, in a full list, by the
    gallery's factor, of the references of a look itself."""
    curve = [{"score": 0.0, "fmr": 0.5}, {"score": 0.5, "fmr": 0.1}, {"score": 0.9, "fmr": 1e-12}]
    points = [{"score": 0.1, "log10_lr": -1}, {"score": 0.8, "log10_lr": 3}]
    calibration = Calibration.from_json(json.dumps(CURVE | MANY | {"curve": curve, "ratios": {"points": points}}))
    scores = [0.62, 0.41]
    similarities = [math.floor(calibration.similarity(score) * 1e4) / 1e4 for score in scores]
    for changed, asked in (
        ({}, (10, 300)),
        ({"limit": 2}, (similarities[-1], 300)),
        ({"gallery_factor": {"value": 4.0, "low": 2.0, "high": 8.0}}, (10, 300, 4.0)),
        ({"gallery_factor": {"value": 0.4, "low": 0.2, "high": 0.8}}, (10, 300)),
        ({"duty": "compare", "references": 2}, (10, 2)),
    ):
        (said,) = packet_evidence.of_record({"looks": [look(similarities, **changed)]}, {"c": calibration})
        for prior in (0.1, 0.5, 0.9):
            beyond, size, *factor = asked
            for one, told in zip(said["candidates"], calibration.evidence(scores, beyond, size, prior, *factor), strict=True):
                assert one["likelihood_ratio"] == pytest.approx(told.ratio, rel=0.01)
                assert one["posteriors"][f"{prior:g}"] == pytest.approx(told.posterior, rel=0.01)
    plain, divided = (calibration.evidence([0.9], 10, 300, 0.5, factor)[0] for factor in (1, 4))
    assert (plain.ratio / divided.ratio, divided.is_most) == (pytest.approx(4), True)
    assert divided.posterior < plain.posterior


def test_posteriors_of_candidates_above_a_threshold_are_what_happens() -> None:
    """20,000 searches of 200 people, half of the persons sought enrolled, answered from a threshold on: of those given p, p are right.

    Who is below the threshold is not seen; what all of them say together is the share of mates below it.
    """
    rng = np.random.default_rng(8)
    threshold, said, true = 2.0, [], []
    missed = 0.5 * math.erfc((3.0 - threshold) / math.sqrt(2))
    for _ in range(20_000):
        scores, mate = rng.normal(0, 1, 200), rng.integers(0, 400)
        if mate < 200:
            scores[mate] += 3.0
        listed = np.flatnonzero(scores >= threshold)
        said += posterior(0.5, 200, np.exp(3.0 * scores[listed] - 4.5), missed).tolist()  # N(3, 1) over N(0, 1)
        true += (listed == mate).tolist()
    said, true = np.array(said), np.array(true)
    for low, high in ((0.0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (said >= low) & (said < high)
        assert np.count_nonzero(inside) > 300
        assert said[inside].mean() == pytest.approx(true[inside].mean(), abs=0.035)
