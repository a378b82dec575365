"""How likely a detected face is a person's: its arithmetic, its file, and the one that ships."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scipy.special import expit, logit

from aboveboard.biometrics.presence import Presence
from aboveboard.vision.packs import PackFolder

DOCUMENT: dict[str, Any] = {"id": "made", "model_version": "9.1", "intercept": -1, "slope": 3, "animal": 5}


def test_the_chance_is_logistic_in_the_scores_log_odds_and_the_animal() -> None:
    fitted = Presence.from_json(json.dumps(DOCUMENT))
    asked = [(score, animal) for score in (0.6, 0.75, 0.9, 0.95) for animal in (0.0, 0.3, 1.0)]
    assert [fitted.chance(*one) for one in asked] == pytest.approx([expit(-1 + 3 * logit(score) - 5 * animal) for score, animal in asked])
    assert 0 <= fitted.chance(0.0, 1.0) < fitted.chance(1.0, 0.0) <= 1


@pytest.mark.parametrize(
    "change",
    [{"slope": 0}, {"slope": -1}, {"slope": None}, {"slope": float("inf")}, {"animal": -0.1}, {"animal": "much"},
     {"intercept": float("nan")}, {"intercept": [1]}],
)  # fmt: skip
def test_a_file_of_another_form_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a file of a fitted presence"):
        Presence.from_json(json.dumps({**DOCUMENT, **change}))


def test_the_shipped_one_belongs_to_the_default_pack(tmp_path: Path) -> None:
    """It is of the detector and the label pack that ship; a surer score is a surer face, one in a picture of an animal a less sure one."""
    folder = PackFolder(tmp_path)
    card, labels = folder.face_card("yunet-sface"), folder.label_card("efficientnet-lite0")
    fitted = folder.presence(card)
    assert fitted is not None
    assert fitted.provenance["detector"] == {card.detector.file: card.detector.sha256}
    assert fitted.provenance["label_pack"] == {"id": labels.id, "model_version": labels.model_version}
    assert all(fitted.chance(more, 0.2) > fitted.chance(less, 0.2) for less, more in pairwise([0.6, 0.7, 0.8, 0.9, 0.95]))
    assert fitted.chance(0.93, 0.0) > 0.98
    assert fitted.chance(0.75, 1.0) < 0.2
