"""The cards of model packs: what each file is, its sha256, licence, input and output. An unknown key is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from aboveboard import strict
from aboveboard.errors import BadRequest
from aboveboard.vision import registry


@dataclass(frozen=True)
class DetectorCard:
    """Which detector, in which file."""

    architecture: Literal["yunet", "null"]
    file: str = ""
    sha256: str = ""
    sources: tuple[registry.Source, ...] = ()


@dataclass(frozen=True)
class RecogniserCard:
    """Which recogniser, in which file, and what goes in and comes out: see vision.recogniser.Embedder."""

    architecture: Literal["embedding", "null"]
    dimensions: int
    file: str = ""
    sha256: str = ""
    size: int = 112
    colour: Literal["RGB", "BGR"] = "RGB"
    mean: float = 0.0
    scale: float = 1.0
    rewrite: tuple[Literal["prelu"], ...] = ()
    sources: tuple[registry.Source, ...] = ()


@dataclass(frozen=True)
class LabellerCard:
    """Which classifier, in which file, what goes in and comes out (see vision.labelling.Classifier), and the names of its classes."""

    architecture: Literal["efficientnet-lite0", "classifier", "null"]
    taxonomy: str
    file: str = ""
    sha256: str = ""
    size: int = 224
    colour: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)
    crop: float = 1.0
    output: Literal["logits", "probabilities"] = "logits"
    temperature: float = 1.0
    sources: tuple[registry.Source, ...] = ()


@dataclass(frozen=True)
class BoxesCard:
    """Which box detector, in which file, what goes in and comes out (see vision.boxes.BoxDetector), and the label of each class."""

    architecture: Literal["boxes"]
    labels: tuple[str, ...]
    file: str
    sha256: str
    size: int = 416
    colour: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)
    least: float = 0.3
    overlap: float = 0.45
    sources: tuple[registry.Source, ...] = ()


class Kind(NamedTuple):
    """What a pack is for, and the setting that names one."""

    article: str
    name: str
    setting: str


@dataclass(frozen=True)
class _About:
    """What every pack's card says. `model_version` is digits and dots: the API's FaceModelVersion or LabelModelVersion."""

    id: str
    name: str
    model_version: str
    licence: str
    training_data: str
    limits: tuple[str, ...]
    kind: ClassVar[Kind]


@dataclass(frozen=True)
class Card(_About):
    """A face pack's card. `calibration`, `quality` and `presence` name files beside the card, or ones that ship."""

    detector: DetectorCard
    recogniser: RecogniserCard
    calibration: str = ""
    quality: str = ""
    presence: str = ""
    kind: ClassVar[Kind] = Kind("a", "face", "pack")

    @property
    def model(self) -> str:
        """What makes its templates: the pack and the first digits of its recogniser's sha256."""
        return f"{self.id} {self.recogniser.sha256[:16]}".strip()

    @property
    def files(self) -> tuple[DetectorCard | RecogniserCard, ...]:
        return tuple(part for part in (self.detector, self.recogniser) if part.file)


@dataclass(frozen=True)
class LabelCard(_About):
    """A label pack's card: its taxonomy is a file beside the card, or one that ships with Aboveboard."""

    labeller: LabellerCard
    boxes: BoxesCard | None = None
    kind: ClassVar[Kind] = Kind("a", "label", "label_pack")

    @property
    def files(self) -> tuple[LabellerCard | BoxesCard, ...]:
        return tuple(part for part in (self.labeller, self.boxes) if part is not None and part.file)


@dataclass(frozen=True)
class MeshCard:
    """Which net finds the mesh of a face and its blendshapes: an archive of both (see vision.mesh.Mesher)."""

    architecture: Literal["face-landmarker", "null"]
    file: str = ""
    sha256: str = ""
    sources: tuple[registry.Source, ...] = ()


@dataclass(frozen=True)
class NetCard:
    """A net for one thing, in which file; what goes in and comes out is fixed by what it is for."""

    file: str
    sha256: str
    sources: tuple[registry.Source, ...] = ()


@dataclass(frozen=True)
class AttributeCard(_About):
    """An attribute pack's card. `fitted`: what was fitted to these nets' answers, in a file beside the card or one that ships."""

    mesh: MeshCard
    age: NetCard | None = None
    gender: NetCard | None = None
    emotions: NetCard | None = None
    fitted: str = ""
    kind: ClassVar[Kind] = Kind("an", "attribute", "attribute_pack")

    @property
    def nets(self) -> dict[str, NetCard]:
        """The nets that it has beside the mesh, by what they are for."""
        parts = {"age": self.age, "gender": self.gender, "emotions": self.emotions}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def files(self) -> tuple[MeshCard | NetCard, ...]:
        return (*((self.mesh,) if self.mesh.file else ()), *self.nets.values())


AnyCard = Card | LabelCard | AttributeCard


def read_card(text: str, where: str) -> AnyCard:
    """A card from TOML: a label pack's if it has a labeller, an attribute pack's if it has a mesh, else a face pack's.

    An unknown or missing key, or a version that is not digits and dots, raises BadRequest naming it.
    """
    raw = strict.parse(text, where)
    card: AnyCard
    if "labeller" in raw:
        card = strict.table(LabelCard, raw, where)
    elif "mesh" in raw:
        card = strict.table(AttributeCard, raw, where)
    else:
        card = strict.table(Card, raw, where)
    if not card.model_version or set(card.model_version) - set("0123456789."):
        raise BadRequest(f"{where}: model_version must be digits and dots, as the API demands, not '{card.model_version}'")
    names = [card.id, *(name for name in beside(card) if name), *(part.file for part in card.files)]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name in ("card.toml", "calibration.json"):
            raise BadRequest(f"{where}: '{name}' must be a plain name of letters, digits, '.', '_' and '-', without a folder")
    if len(set(names)) < len(names):
        raise BadRequest(f"{where}: the pack's id and its files must have different names")
    if isinstance(card, AttributeCard):
        if (card.mesh.architecture == "null") == bool(card.mesh.file):
            raise BadRequest(f"{where}: a mesh of architecture face-landmarker has a file, one of architecture null has none")
        if (card.age is None) != (card.gender is None):
            raise BadRequest(f"{where}: age and gender are read together; name both or neither")
    if isinstance(card, LabelCard):
        _check_input(card.labeller, where)
        if card.boxes is not None:
            _check_input(card.boxes, where)
    return card


def beside(card: AnyCard) -> tuple[str, ...]:
    """Files beside the card that are no models."""
    match card:
        case LabelCard():
            return (card.labeller.taxonomy,)
        case AttributeCard():
            return (card.fitted,)
        case Card():
            return (card.calibration, card.quality, card.presence)


def _check_input(part: LabellerCard | BoxesCard, where: str) -> None:
    if min(part.deviation) <= 0 or not 0 < part.size <= 4096:
        raise BadRequest(f"{where}: deviation must be above 0, size 1 to 4096")
    if isinstance(part, LabellerCard) and not (0 < part.crop <= 1 and part.temperature > 0):
        raise BadRequest(f"{where}: of the labeller crop must be above 0 and at most 1, temperature above 0")
