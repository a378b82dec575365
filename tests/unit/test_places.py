"""Which boxes are the same face: by overlap, the best first, each once."""

from __future__ import annotations

import pytest

from aboveboard.biometrics.places import overlap, paired
from aboveboard.biometrics.vocabulary import Box

FACE = Box(0.2, 0.2, 0.2, 0.2)


@pytest.mark.parametrize(
    ("other", "share"),
    [
        (FACE, 1.0),
        (Box(0.3, 0.2, 0.2, 0.2), 1 / 3),
        (Box(0.2, 0.2, 0.2, 0.1), 1 / 2),
        (Box(0.4, 0.2, 0.2, 0.2), 0.0),
        (Box(-0.3, 0.9, 0.2, 0.2), 0.0),
        (Box(0.2, 0.2, 0.0, 0.0), 0.0),
    ],
)
def test_overlap_is_intersection_over_union(other, share):
    """Worked out by hand; the same both ways."""
    assert overlap(FACE, other) == overlap(other, FACE) == pytest.approx(share)


def test_the_best_overlap_goes_first_and_no_box_twice():
    """Of two that lie on one face the nearer one gets it; what shares less than half is nobody's."""
    near, nearer, far = Box(0.24, 0.2, 0.2, 0.2), Box(0.21, 0.2, 0.2, 0.2), Box(0.32, 0.2, 0.2, 0.2)
    assert paired([FACE], [near, nearer, far]) == {0: 1}
    assert paired([near, FACE], [nearer]) == {1: 0}
    assert paired([FACE], [far]) == {}
    assert paired([near, nearer, far], [far, near, nearer]) == {0: 1, 1: 2, 2: 0}
    assert paired([], [FACE]) == {}
