"""The words of the house (ISO/IEC 2382-37): faces, templates, candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from aboveboard.biometrics.gallery import Factor, GalleryCheck, OwnScores, Share

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle as ratios of the upright image's width and height; may reach outside 0-1 at its border."""

    left: float
    top: float
    width: float
    height: float

    @property
    def area(self) -> float:
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Landmark:
    """A named point as ratios of the upright image's width and height. Left and right are the viewer's."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Pose:
    """Rotation of a head in degrees; 0, 0, 0 looks straight into the camera, upright."""

    roll: float
    yaw: float
    pitch: float


@dataclass(frozen=True, slots=True)
class Quality:
    """Brightness and sharpness of a face, each 0-100."""

    brightness: float
    sharpness: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """Yes or no, and how sure (0-100) that what is said is right."""

    value: bool
    confidence: float


@dataclass(frozen=True, slots=True)
class Gender:
    """What an annotator would most likely say of a picture, male or female, and how sure (0-100); nobody's gender identity."""

    value: Literal["Male", "Female"]
    confidence: float


@dataclass(frozen=True, slots=True)
class Gaze:
    """Where the eyes look, in degrees against the camera; yaw and pitch as of a Pose. `confidence` (0-100): that eyes can be seen."""

    yaw: float
    pitch: float
    confidence: float


AttributeName = Literal[
    "age_range", "beard", "emotions", "eye_direction", "eyeglasses", "eyes_open", "face_occluded", "gender", "mouth_open", "mustache",
    "smile", "sunglasses",
]  # fmt: skip
ATTRIBUTES: Final[tuple[AttributeName, ...]] = get_args(AttributeName)


EMOTIONS: Final = ("HAPPY", "SAD", "ANGRY", "CONFUSED", "DISGUSTED", "SURPRISED", "CALM", "FEAR")
"""The names of expressions, in Amazon Rekognition's words."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is said of a face beside its box, landmarks, pose and quality; None where it was not asked for or is not assessed.

    `age_range`: years, both ends included. `emotions`: names of expressions with confidences 0-100, the surest first; what a face looks
    like, not what somebody feels.
    """

    age_range: tuple[int, int] | None = None
    beard: Judgement | None = None
    emotions: tuple[tuple[str, float], ...] | None = None
    eye_direction: Gaze | None = None
    eyeglasses: Judgement | None = None
    eyes_open: Judgement | None = None
    face_occluded: Judgement | None = None
    gender: Gender | None = None
    mouth_open: Judgement | None = None
    mustache: Judgement | None = None
    smile: Judgement | None = None
    sunglasses: Judgement | None = None


@dataclass(frozen=True, slots=True)
class Face:
    """A face found in an image. `confidence` (0-100): certainty that the box holds a face; `size_px`: the box's shorter side.

    `unified`: its unified quality 0-100 (`biometrics.quality`); None where nobody asked or the pack has no fitted one.
    """

    box: Box
    confidence: float
    landmarks: tuple[Landmark, ...]
    pose: Pose
    quality: Quality
    size_px: float
    attributes: Attributes = Attributes()
    unified: float | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """Features of one face: a unit vector of float32, comparable only with templates of the same model version."""

    vector: Vector
    model_version: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A returned reference, by its id (a face's, a user's handle): `rank` counts from 1, `similarity` is calibrated 0-100,
    `comparison_score` the raw cosine.

    `own_share` says how many of the gallery's own pairs score as high, `above_rest` how many standard deviations above the mean of all
    scores of this search this one lies; None where the gallery is too small to say. `person` is the rank of the first candidate of the
    same user, its own where there is none, and `faces` how many references the user has, rounded up to a power of two.
    """

    rank: int
    reference: str
    similarity: float
    comparison_score: float
    own_share: Share | None = None
    above_rest: float | None = None
    person: int = 0
    faces: int = 1


@dataclass(frozen=True, slots=True)
class Basis:
    """What a set of candidates rests on: threshold and its origin, gallery size and the error rates at that threshold.

    `fmr` is the false match rate per comparison, `expected_false = N x fmr`, `fpir = 1 - (1 - fmr)^N`, `fnir` the share of
    mated searches missed at this threshold in the calibration set. `extrapolated`: the threshold lies beyond what was measured.
    `gallery_factor`: how the FMR among this gallery's own faces is to the promised one, and `expected_false_own` what it makes of
    `expected_false`; None where that cannot be told. `banner`: what the policy has said beside each answer.
    """

    policy: str
    threshold: float
    threshold_origin: str
    floor: float
    gallery_size: int
    fmr: float
    expected_false: float
    fpir: float
    fnir: float
    calibration: str
    extrapolated: bool
    gallery_factor: Factor | None = None
    expected_false_own: float | None = None
    banner: str = ""


@dataclass(frozen=True, slots=True)
class Association:
    """Which faces are alike enough to be one person's, and which are not (with their similarity, None where it lies below the floor).

    Made by the gate's looks only.
    """

    audit_id: str
    basis: Basis
    accepted: tuple[str, ...]
    refused: tuple[tuple[str, float | None], ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two faces of one gallery that are alike. `is_near_duplicate`: so alike that they are copies of one photograph, or nearly.

    `has_one_id`: both are of one subject, or, where they have none, bear one external id.
    """

    face_ids: tuple[str, str]
    similarity: float
    is_near_duplicate: bool
    has_one_id: bool


@dataclass(frozen=True, slots=True)
class Stranger:
    """A face that is unlike most of its subject's `faces`: the best similarity with those, None where it lies below the policy's floor."""

    face_id: str
    similarity: float | None
    faces: int


@dataclass(frozen=True, slots=True)
class Findings:
    """What comparing every face of a gallery with every other brought up. Made by the gate's looks only; carries its audit id.

    `basis.expected_false` is of all `comparisons`. `pairs` are the most alike of `near_duplicates` + `under_two_ids` that were found.
    `strangers` are those of `strangers_found` among the `subject_faces` of subjects with several faces, at `subject_threshold`, which
    `subject_fnmr` of mated comparisons miss. `gallery` is the gallery beside its calibration, None where it is too small.
    """

    audit_id: str
    basis: Basis
    identities_withheld: bool
    comparisons: int
    near_duplicates: int
    under_two_ids: int
    pairs: tuple[Pair, ...]
    subject_threshold: float
    subject_fnmr: float
    subject_faces: int
    strangers_found: int
    strangers: tuple[Stranger, ...]
    gallery: GalleryCheck | None


@dataclass(frozen=True, slots=True)
class GalleryScores:
    """The scores among a gallery's own faces, for the laboratory; None where it is too small. Made by the gate's looks only.

    `mated` (BINS,): how the scores of the faces of `mated_people` people with one another lie; zeros where they are too few.
    """

    audit_id: str
    calibration: str
    model_version: str
    own: OwnScores | None
    mated: NDArray[np.int64]
    mated_people: int
    gallery: GalleryCheck | None


@dataclass(frozen=True, slots=True)
class Candidates(Sequence[Candidate]):
    """The answer of one recorded look, best first. Made by the gate's looks only; carries the audit id of its ledger entries.

    `references`: with how many this look itself compared; `basis.gallery_size` has those of its case so far among them.
    `is_full`: the list is as long as it may be, so that others may have reached the threshold too. `people`: of how many people the
    references are, a face without a user for one; None where no face has a user.
    """

    audit_id: str
    basis: Basis
    identities_withheld: bool
    items: tuple[Candidate, ...]
    references: int
    is_full: bool
    people: int | None = None

    @property
    def beyond(self) -> float:
        """The similarity that nobody else of the gallery exceeds."""
        return self.items[-1].similarity if self.is_full and self.items else self.basis.threshold

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Candidate:  # type: ignore[override]
        return self.items[index]
