"""Floors under the default pack's error rates, so that a worse pipeline does not pass unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from aboveboard.evaluation.protocol import shipped_errata
from aboveboard.evaluation.run import verification


@pytest.mark.long
def test_the_default_pack_keeps_its_error_rates(models, measuring: Path):
    """LFW, people of folds 1-5, all pairs: every face is found, and TAR stays at what the calibration was made with."""
    result = verification(measuring / "lfw-a", models, shipped_errata(), draws=100)
    as_is, corrected = result["as_is"]["tar"], result["corrected"]["tar"]
    assert result["failures_to_enrol"] == 0
    assert as_is["1e-4"] >= 0.9849
    assert as_is["1e-5"] >= 0.9729
    assert corrected["1e-6"] >= 0.950
    assert result["at_similarity"]["80"]["tar"] >= 0.96
    assert result["at_similarity"]["80"]["fmr"] == pytest.approx(2e-6, rel=0.2)
