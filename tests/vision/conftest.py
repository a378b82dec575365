"""The real default pack, the registry photographs, and, where the machine has them, the photographs for measuring."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aboveboard import settings
from aboveboard.vision import media
from aboveboard.vision.packs import Models, PackFolder


@pytest.fixture(scope="session")
def pack_folder() -> PackFolder:
    return PackFolder(settings.load().models)


@pytest.fixture(scope="session")
def models(pack_folder: PackFolder) -> Models:
    return pack_folder.load("yunet-sface")


@pytest.fixture(scope="session")
def photographs() -> dict[str, media.Image]:
    folder = settings.load().photographs
    return {file.stem: media.decode(file.read_bytes(), 10**8) for file in sorted(folder.iterdir()) if file.suffix in (".jpg", ".png")}


@pytest.fixture(scope="session")
def measuring() -> Path:
    folder = os.environ.get("TEST_PHOTOGRAPHS", "")
    if not folder:
        pytest.skip("TEST_PHOTOGRAPHS names no folder with photographs for measuring")
    return Path(folder)
