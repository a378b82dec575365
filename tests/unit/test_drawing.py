"""Words in pictures: readable, however long a name is and however narrow the picture."""

from __future__ import annotations

import numpy as np
import pytest

from aboveboard.biometrics.vocabulary import Box, Face, Pose, Quality
from aboveboard.cli import drawing

FACE = Face(Box(0.4, 0.4, 0.2, 0.2), 99.0, (), Pose(0, 0, 0), Quality(50, 50), 100)


@pytest.mark.parametrize("shape", [(720, 960), (480, 640), (900, 300)])
def test_a_name_of_255_letters_is_cut_rather_than_too_small_to_be_read(shape: tuple[int, int]) -> None:
    """Amazon's limit for an ExternalImageId; of a shorter one every letter is there."""

    def words(line: str) -> tuple[int, int]:
        """Height and width of the dark field."""
        drawn = drawing.draw(np.full((*shape, 3), 200, np.uint8), [drawing.Mark(FACE, (line,))])
        rows, columns = np.nonzero((drawn == 20).all(axis=2))
        return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1

    long, short = words("1: 99.9 " + "x" * 255), words("1: 99.9 Ada")
    assert 17 <= long[0] <= short[0]
    assert short[1] < long[1]
