"""Model packs: a card names each file, its sha256, licence, input and output; nothing is guessed and nothing installs itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeVar

import numpy as np

from aboveboard.biometrics.calibration import Calibration
from aboveboard.biometrics.presence import Presence
from aboveboard.biometrics.quality import UnifiedQuality
from aboveboard.errors import BadRequest, NoSuch, Unavailable
from aboveboard.vision import attributes, conversion, eightbit, null, registry, session
from aboveboard.vision.attributes import AttributeReader
from aboveboard.vision.boxes import BoxDetector
from aboveboard.vision.detector import Detector, YuNet
from aboveboard.vision.labelling import Classifier, Labeller, Taxonomy, read_taxonomy
from aboveboard.vision.model_cards import AnyCard, AttributeCard, Card, LabelCard, LabellerCard, MeshCard, NetCard, beside, read_card
from aboveboard.vision.recogniser import Embedder, Recogniser

C = TypeVar("C", Card, LabelCard, AttributeCard)
F = TypeVar("F", Calibration, UnifiedQuality, Presence)


@dataclass(frozen=True)
class Models:
    """A loaded face pack: what the services compute with. `calibration` is None where the pack has none: then it answers no similarity.

    `quality` is None where none was fitted: then faces are filtered by plain bars. `presence` is None where none was: then labels of
    people have the detector's own score.
    """

    card: Card
    detector: Detector
    recogniser: Recogniser
    calibration: Calibration | None
    quality: UnifiedQuality | None = None
    presence: Presence | None = None


@dataclass(frozen=True)
class LabelModels:
    """A loaded label pack."""

    card: LabelCard
    labeller: Labeller
    taxonomy: Taxonomy
    boxes: BoxDetector | None


class PackFolder:
    """The installed packs in one folder, each in a subfolder of its id, and the cards that ship with Aboveboard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ids(self) -> list[str]:
        """Every pack that has a card, shipped or installed."""
        shipped = {file.name.removesuffix(".toml") for file in _shipped("cards").iterdir() if file.name.endswith(".toml")}
        return sorted(shipped | {card.parent.name for card in self.folder.glob("*/card.toml")})

    def face_card(self, pack: str) -> Card:
        """As `card`, of a face pack; raises BadRequest for another kind."""
        return self._of(Card, pack)

    def label_card(self, pack: str) -> LabelCard:
        """As `card`, of a label pack; raises BadRequest for another kind."""
        return self._of(LabelCard, pack)

    def attribute_card(self, pack: str) -> AttributeCard:
        """As `card`, of an attribute pack; raises BadRequest for another kind."""
        return self._of(AttributeCard, pack)

    def _of(self, kind: type[C], pack: str) -> C:
        card = self.card(pack)
        if not isinstance(card, kind):
            own, asked = card.kind, kind.kind
            raise BadRequest(f"'{pack}' is {own.article} {own.name} pack, no {asked.name} pack; the setting '{own.setting}' takes it")
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
                session.verified_bytes(file, part.sha256, pack)
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
        contents = {part.file: session.verified_bytes(folder / part.file, part.sha256, card.id) for part in card.files}
        if own.is_file():
            for name in beside(card):
                ships = not isinstance(card, Card) and any((_shipped(shelf) / name).is_file() for shelf in ("taxonomies", "fitted"))
                if name and ((folder / name).is_file() or not ships):
                    contents[name] = _checked_beside(folder / name, card)
            contents["card.toml"] = own.read_bytes()
        for name, data in contents.items():
            registry.write_whole(self.folder / card.id / name, data)
        return card

    def state(self, pack: str) -> tuple[tuple[int, int], ...]:
        """When the files of an installed pack were written and how large they are: other files, another state."""
        names = [part.file for part in self.card(pack).files]
        files = [self.folder / pack / name for name in (*names, *beside(self.card(pack)))]
        return tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file())

    def verify(self, pack: str) -> AnyCard:
        """Check every file of an installed pack against its card; raises Unavailable naming the file that differs."""
        card = self.card(pack)
        for part in card.files:
            session.verified_bytes(self.folder / pack / part.file, part.sha256, pack)
        return card

    def calibration(self, pack: str) -> Calibration | None:
        """The pack's calibration: one made here (calibration.json in its folder) before the one that its card names."""
        card = self.card(pack)
        if not isinstance(card, Card):
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

    def quality(self, card: Card) -> UnifiedQuality | None:
        """The fitted quality that a card names: the installed file, else the shipped one."""
        return self._fitted(card, card.quality, UnifiedQuality.from_json)

    def presence(self, card: Card) -> Presence | None:
        """What the detector's score is worth, as `quality`."""
        return self._fitted(card, card.presence, Presence.from_json)

    def _fitted(self, card: Card, name: str, read: Callable[[str], F]) -> F | None:
        if not name:
            return None
        file = self._beside(card, name, "fitted")
        try:
            return _matching(read(file.read_text()), card)
        except ValueError as error:
            raise Unavailable(f"{file.name} of pack '{card.id}': {error}") from error

    def _beside(self, card: AnyCard, name: str, shelf: str) -> Path:
        """A file that a card names beside its models: the installed one, else the one that ships on this shelf."""
        for file in (self.folder / card.id / name, _shipped(shelf) / name):
            if file.is_file():
                return file
        raise Unavailable(f"the file {name} of the pack '{card.id}' is missing; install the pack again")

    def load(self, pack: str) -> Models:
        """Open a face pack's models. Raises Unavailable where a file is missing or differs from its card."""
        card = self.face_card(pack)
        fitted = self.calibration(pack), self.quality(card), self.presence(card)
        return Models(card, self._detector(card), self._recogniser(card), *fitted)

    def load_labels(self, pack: str) -> LabelModels:
        """Open a label pack's model and taxonomy; raises as `load`, or BadRequest where they do not fit together."""
        card = self.label_card(pack)
        part = card.labeller
        file = self._beside(card, part.taxonomy, "taxonomies")
        taxonomy = read_taxonomy(file.read_text(encoding="utf-8"), file.name)
        return LabelModels(card, self._labeller(card, taxonomy.classes), taxonomy, self._boxes(card, taxonomy))

    def load_attributes(self, pack: str) -> AttributeReader:
        """Open an attribute pack's models; raises as `load`."""
        card = self.attribute_card(pack)
        if card.mesh.architecture == "null":
            return null.NullAttributes()
        fitted = attributes.Fitted()
        if card.fitted:
            file = self._beside(card, card.fitted, "fitted")
            fitted = attributes.read_fitted(file.read_text(encoding="utf-8"), file.name)
        nets = {name: self._net(card, part) for name, part in card.nets.items()}
        return attributes.NetReader(self._net(card, card.mesh), nets, fitted)

    def _net(self, card: AttributeCard, part: MeshCard | NetCard) -> bytes:
        return session.verified_bytes(self.folder / card.id / part.file, part.sha256, card.id)

    def _boxes(self, card: LabelCard, taxonomy: Taxonomy) -> BoxDetector | None:
        part = card.boxes
        if part is None:
            return None
        if lacking := set(part.labels) - {entry.name for entry in taxonomy.entries}:
            raise BadRequest(f"card '{card.id}': the taxonomy has no label {', '.join(sorted(lacking))}, which the box detector finds")
        opened = session.open_session(session.parse(session.verified_bytes(self.folder / card.id / part.file, part.sha256, card.id)))
        boxes = BoxDetector(opened, part.labels, part.size, part.colour, part.mean, part.deviation, part.least, part.overlap)
        boxes.detect(np.zeros((part.size, part.size, 3), np.uint8))
        return boxes

    def _labeller(self, card: LabelCard, classes: int) -> Labeller:
        part = card.labeller
        if part.architecture == "null":
            return null.NullLabeller()
        data = session.verified_bytes(self.folder / card.id / part.file, part.sha256, card.id)
        if part.architecture == "efficientnet-lite0":
            weights = conversion.read_checkpoint(data)
            graph = session.tried(
                lambda: eightbit.rewritten(*conversion.efficientnet_lite0(weights, part.size), *_range(part)),
                f"card '{card.id}': the weights in {part.file} are not those of an EfficientNet-Lite0; use architecture \"classifier\""
                " for another network, as an ONNX file",
            )
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
        graph = session.parse(session.verified_bytes(self.folder / card.id / part.file, part.sha256, card.id))
        session.free_dimensions(graph, ["", "", "height", "width"])
        return YuNet(session.open_session(graph))

    def _recogniser(self, card: Card) -> Recogniser:
        part = card.recogniser
        if part.architecture == "null":
            return null.NullRecogniser()
        graph = session.parse(session.verified_bytes(self.folder / card.id / part.file, part.sha256, card.id))
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


def _range(part: LabellerCard) -> tuple[float, float]:
    """The least and the greatest number that any pixel becomes in a classifier's input."""
    black, white = ((pixel - np.array(part.mean)) / np.array(part.deviation) for pixel in (0, 255))
    return float(black.min()), float(white.max())


def _checked_beside(file: Path, card: AnyCard) -> bytes:
    """A calibration, taxonomy or fit that goes with a card; raises BadRequest with its fault."""
    try:
        text = file.read_text(encoding="utf-8")
        match card:
            case Card() if file.name == card.quality:
                _matching(UnifiedQuality.from_json(text), card)
            case Card() if file.name == card.presence:
                _matching(Presence.from_json(text), card)
            case Card():
                _matching(Calibration.from_json(text), card)
            case LabelCard():
                read_taxonomy(text, file.name)
            case AttributeCard():
                attributes.read_fitted(text, file.name)
    except (OSError, ValueError) as error:
        raise BadRequest(f"{file}: {error}") from error
    return text.encode()


def _matching(made: F, card: Card) -> F:
    if made.model_version != card.model_version:
        raise ValueError(f"it was made for model version {made.model_version}, the card says {card.model_version}")
    return made


def _shipped(folder: str, package: str = "aboveboard.vision") -> Path:
    return Path(str(resources.files(package))) / folder
