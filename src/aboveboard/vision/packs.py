"""Model packs: a card names each file, its sha256, licence, input and output; nothing is guessed and nothing installs itself."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from aboveboard import strict
from aboveboard.biometrics.calibration import Calibration
from aboveboard.errors import BadRequest, NoSuch, Refused, Unavailable
from aboveboard.vision import conversion, null, registry, session
from aboveboard.vision.boxes import BoxDetector
from aboveboard.vision.detector import Detector, YuNet
from aboveboard.vision.labelling import Classifier, Labeller, Taxonomy, read_taxonomy
from aboveboard.vision.recogniser import Embedder, Recogniser


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


@dataclass(frozen=True)
class _About:
    """What every pack's card says. `model_version` is digits and dots: the API's FaceModelVersion or LabelModelVersion."""

    id: str
    name: str
    model_version: str
    licence: str
    training_data: str
    limits: tuple[str, ...]


@dataclass(frozen=True)
class Card(_About):
    """A face pack's card. `calibration` names a file beside the card."""

    detector: DetectorCard
    recogniser: RecogniserCard
    calibration: str = ""

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

    @property
    def files(self) -> tuple[LabellerCard | BoxesCard, ...]:
        return tuple(part for part in (self.labeller, self.boxes) if part is not None and part.file)


AnyCard = Card | LabelCard
C = TypeVar("C", Card, LabelCard)


@dataclass(frozen=True)
class Models:
    """A loaded face pack: what the services compute with. `calibration` is None where the pack has none: then it answers no similarity."""

    card: Card
    detector: Detector
    recogniser: Recogniser
    calibration: Calibration | None


@dataclass(frozen=True)
class LabelModels:
    """A loaded label pack."""

    card: LabelCard
    labeller: Labeller
    taxonomy: Taxonomy
    boxes: BoxDetector | None


def read_card(text: str, where: str) -> AnyCard:
    """A card from TOML: a label pack's if it has a labeller, else a face pack's.

    An unknown or missing key, or a version that is not digits and dots, raises BadRequest naming it.
    """
    raw = strict.parse(text, where)
    card: AnyCard = strict.table(LabelCard, raw, where) if "labeller" in raw else strict.table(Card, raw, where)
    if not card.model_version or set(card.model_version) - set("0123456789."):
        raise BadRequest(f"{where}: model_version must be digits and dots, as the API demands, not '{card.model_version}'")
    names = [card.id, *(name for name in _beside(card) if name), *(part.file for part in card.files)]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name in ("card.toml", "calibration.json"):
            raise BadRequest(f"{where}: '{name}' must be a plain name of letters, digits, '.', '_' and '-', without a folder")
    if len(set(names)) < len(names):
        raise BadRequest(f"{where}: the pack's id and its files must have different names")
    if isinstance(card, LabelCard):
        _check_input(card.labeller, where)
        if card.boxes is not None:
            _check_input(card.boxes, where)
    return card


def _beside(card: AnyCard) -> tuple[str, ...]:
    """Files beside the card that are no models."""
    return (card.labeller.taxonomy,) if isinstance(card, LabelCard) else (card.calibration,)


def _check_input(part: LabellerCard | BoxesCard, where: str) -> None:
    if min(part.deviation) <= 0 or not 0 < part.size <= 4096:
        raise BadRequest(f"{where}: deviation must be above 0, size 1 to 4096")
    if isinstance(part, LabellerCard) and not (0 < part.crop <= 1 and part.temperature > 0):
        raise BadRequest(f"{where}: of the labeller crop must be above 0 and at most 1, temperature above 0")


class PackFolder:
    """The installed packs in one folder, each in a subfolder of its id, and the cards that ship with Aboveboard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ids(self) -> list[str]:
        """Every pack that has a card, shipped or installed."""
        shipped = {file.name.removesuffix(".toml") for file in _shipped("cards").iterdir() if file.name.endswith(".toml")}
        return sorted(shipped | {card.parent.name for card in self.folder.glob("*/card.toml")})

    def face_card(self, pack: str) -> Card:
        """As `card`, of a face pack; raises BadRequest for a label pack."""
        return self._of(Card, pack, "a label pack, no face pack; the setting 'label_pack' takes it")

    def label_card(self, pack: str) -> LabelCard:
        """As `card`, of a label pack; raises BadRequest for a face pack."""
        return self._of(LabelCard, pack, "a face pack, no label pack; the setting 'pack' takes it")

    def _of(self, kind: type[C], pack: str, otherwise: str) -> C:
        card = self.card(pack)
        if not isinstance(card, kind):
            raise BadRequest(f"'{pack}' is {otherwise}")
        return card

    def card(self, pack: str) -> AnyCard:
        """A pack's card: the shipped one, else the installed one. Raises NoSuch where there is neither."""
        for file in (_shipped("cards") / f"{pack}.toml", self.folder / pack / "card.toml"):
            if pack == Path(pack).name and file.is_file():
                return read_card(file.read_text(), file.name)
        raise NoSuch(f"there is no model pack '{pack}'; known are {', '.join(self.ids())}")

    def is_installed(self, pack: str) -> bool:
        return all((self.folder / pack / part.file).is_file() for part in self.card(pack).files)

    def install(self, pack: str, index: str, progress: registry.Progress) -> AnyCard:
        """Fetch the pack's files from their sources, checked and written whole; files that are there already are only checked."""
        card, cache = self.card(pack), dict[str, bytes]()
        for part in card.files:
            file = self.folder / pack / part.file
            try:
                session.verified_bytes(file, part.sha256)
            except Unavailable:
                registry.write_whole(file, registry.fetch(part.sources, part.sha256, index, progress, cache))
        return card

    def install_from(self, folder: Path) -> AnyCard:
        """Install from a folder: its card.toml (or, without one, a shipped card whose files it holds), and what that names."""
        own = folder / "card.toml"
        if own.is_file():
            card = read_card(own.read_text(), str(own))
            if (_shipped("cards") / f"{card.id}.toml").is_file():
                raise BadRequest(f"{own}: the id '{card.id}' belongs to a pack that ships with Aboveboard; choose another")
        else:
            card = self._shipped_card_for(folder)
        contents = {part.file: session.verified_bytes(folder / part.file, part.sha256) for part in card.files}
        if own.is_file():
            for name in _beside(card):
                if name and (isinstance(card, Card) or not (_shipped("taxonomies") / name).is_file()):
                    contents[name] = _checked_beside(folder / name, card)
            contents["card.toml"] = own.read_bytes()
        for name, data in contents.items():
            registry.write_whole(self.folder / card.id / name, data)
        return card

    def verify(self, pack: str) -> AnyCard:
        """Check every file of an installed pack against its card; raises Unavailable naming the file that differs."""
        card = self.card(pack)
        for part in card.files:
            session.verified_bytes(self.folder / pack / part.file, part.sha256)
        return card

    def calibration(self, pack: str) -> Calibration | None:
        """The pack's calibration: one made here (calibration.json in its folder) before the one that its card names."""
        card = self.card(pack)
        if isinstance(card, LabelCard):
            return None
        candidates = [self.folder / pack / "calibration.json"]
        if card.calibration:
            candidates += [
                self.folder / pack / card.calibration,
                _shipped("calibrations", "aboveboard") / card.calibration,
            ]
        for file in candidates:
            if file.is_file():
                try:
                    return _matching(Calibration.from_json(file.read_text()), card)
                except ValueError as error:
                    raise Unavailable(f"{file.name} of pack '{pack}': {error}") from error
        return None

    def load(self, pack: str) -> Models:
        """Open a face pack's models. Raises Unavailable where a file is missing or differs from its card."""
        card = self.face_card(pack)
        return Models(card, self._detector(card), self._recogniser(card), self.calibration(pack))

    def load_labels(self, pack: str) -> LabelModels:
        """Open a label pack's model and taxonomy; raises as `load`, or BadRequest where they do not fit together."""
        card = self.label_card(pack)
        part = card.labeller
        places = (self.folder / card.id / part.taxonomy, _shipped("taxonomies") / part.taxonomy)
        file = next((file for file in places if file.is_file()), None)
        if file is None:
            raise Unavailable(f"the taxonomy {part.taxonomy} of the pack '{pack}' is missing; install the pack again")
        taxonomy = read_taxonomy(file.read_text(encoding="utf-8"), file.name)
        return LabelModels(card, self._labeller(card, taxonomy.classes), taxonomy, self._boxes(card, taxonomy))

    def _boxes(self, card: LabelCard, taxonomy: Taxonomy) -> BoxDetector | None:
        part = card.boxes
        if part is None:
            return None
        if lacking := set(part.labels) - {entry.name for entry in taxonomy.entries}:
            raise BadRequest(f"card '{card.id}': the taxonomy has no label {', '.join(sorted(lacking))}, which the box detector finds")
        opened = session.open_session(session.parse(session.verified_bytes(self.folder / card.id / part.file, part.sha256)))
        boxes = BoxDetector(opened, part.labels, part.size, part.colour, part.mean, part.deviation, part.least, part.overlap)
        boxes.detect(np.zeros((part.size, part.size, 3), np.uint8))
        return boxes

    def _labeller(self, card: LabelCard, classes: int) -> Labeller:
        part = card.labeller
        if part.architecture == "null":
            return null.NullLabeller()
        data = session.verified_bytes(self.folder / card.id / part.file, part.sha256)
        if part.architecture == "efficientnet-lite0":
            graph = conversion.efficientnet_lite0(conversion.read_checkpoint(data), part.size)
        else:
            graph = session.parse(data)
        labeller = Classifier(
            session.open_session(graph), part.size, part.colour, part.mean, part.deviation, part.crop, part.output, part.temperature
        )
        # A model that does not fit its card is found now, not by the first photograph.
        found = labeller.probabilities(np.zeros((part.size, part.size, 3), np.uint8)).size
        if found != classes:
            raise BadRequest(f"card '{card.id}': the classifier has {found} classes, its taxonomy names {classes}")
        return labeller

    def _detector(self, card: Card) -> Detector:
        part = card.detector
        if part.architecture == "null":
            return null.NullDetector()
        graph = session.parse(session.verified_bytes(self.folder / card.id / part.file, part.sha256))
        session.free_dimensions(graph, ["", "", "height", "width"])
        return YuNet(session.open_session(graph))

    def _recogniser(self, card: Card) -> Recogniser:
        part = card.recogniser
        if part.architecture == "null":
            return null.NullRecogniser()
        graph = session.parse(session.verified_bytes(self.folder / card.id / part.file, part.sha256))
        if "prelu" in part.rewrite:
            session.rewrite_prelu(graph)
        opened = session.open_session(graph)
        found = opened.get_outputs()[0].shape[-1]
        if isinstance(found, int) and found != part.dimensions:
            raise BadRequest(f"card '{card.id}': the recogniser gives {found} features, the card says {part.dimensions}")
        return Embedder(opened, opened.get_inputs()[0].name, part.dimensions, part.size, part.colour, part.mean, part.scale)

    def _shipped_card_for(self, folder: Path) -> AnyCard:
        for pack in self.ids():
            card = self.card(pack)
            if card.files and all((folder / part.file).is_file() for part in card.files):
                return card
        raise BadRequest(f"{folder} holds neither a card.toml nor the files of a known pack; see docs/bring-your-own-model.md")


class Labels:
    """The label pack of a deployment, loaded when somebody first asks for labels."""

    def __init__(self, packs: PackFolder, pack: str) -> None:
        self._packs, self._pack = packs, pack
        self._loaded: LabelModels | None = None
        self._lock = threading.Lock()

    def models(self) -> LabelModels:
        """The loaded pack. Raises Refused where there is none: then labels are not offered here."""
        with self._lock:
            if self._loaded is None:
                if not self._pack:
                    raise Refused("labels are not provided by this server: the setting 'label_pack' names no pack", rule="not-provided")
                if not self._packs.is_installed(self._pack):
                    text = f"labels are not provided by this server: the label pack '{self._pack}' is not installed in {self._packs.folder}"
                    raise Refused(f"{text}; run: aboveboard models install {self._pack}", rule="not-provided")
                self._loaded = self._packs.load_labels(self._pack)
            return self._loaded


def _checked_beside(file: Path, card: AnyCard) -> bytes:
    """A calibration or taxonomy that goes with a card; raises BadRequest with its fault."""
    try:
        text = file.read_text(encoding="utf-8")
        if isinstance(card, Card):
            _matching(Calibration.from_json(text), card)
        else:
            read_taxonomy(text, file.name)
    except (OSError, ValueError) as error:
        raise BadRequest(f"{file}: {error}") from error
    return text.encode()


def _matching(calibration: Calibration, card: Card) -> Calibration:
    if calibration.model_version != card.model_version:
        raise ValueError(f"it was made for model version {calibration.model_version}, the card says {card.model_version}")
    return calibration


def _shipped(folder: str, package: str = "aboveboard.vision") -> Path:
    return Path(str(resources.files(package))) / folder
