"""Packs of one's own with fitted files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit import pack_with

from aboveboard.errors import BadRequest, Unavailable
from aboveboard.vision.packs import PackFolder

QUALITY = {"similarity": 80, "middle": 10, "slope": 1.2, "bars": {"AUTO": 20, "LOW": 20, "MEDIUM": 50, "HIGH": 80}}
PRESENCE = {"intercept": -1, "slope": 3, "animal": 5}


@pytest.mark.parametrize(("part", "numbers"), [("quality", QUALITY), ("presence", PRESENCE)])
def test_a_pack_brings_its_own(tmp_path: Path, part: str, numbers: dict[str, Any]) -> None:
    """Beside its card; one of another model version is refused, and a missing one named."""
    folder, document = PackFolder(tmp_path / "packs"), {"id": "made", "model_version": "9.1", **numbers}
    source = pack_with(tmp_path / "source", part, {**document, "model_version": "9.2"})
    with pytest.raises(BadRequest, match=r"made for model version 9\.2, the card says 9\.1"):
        folder.install_from(source)
    folder.install_from(pack_with(source, part, document))
    fitted = getattr(folder.load("own"), part)
    assert fitted.id == "made"
    (folder.folder / "own" / f"own-{part}.json").unlink()
    with pytest.raises(Unavailable, match=rf"own-{part}\.json of the pack 'own' is missing"):
        folder.load("own")
