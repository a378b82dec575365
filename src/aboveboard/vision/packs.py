"""Model packs: a card names each file, its sha256, licence, input and output; nothing is guessed and nothing installs itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from aboveboard import strict
from aboveboard.biometrics.calibration import Calibration
from aboveboard.errors import BadRequest, NoSuch, Unavailable
from aboveboard.vision import null, registry, session
from aboveboard.vision.detector import Detector, YuNet
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
class Card:
    """A model pack's card. `model_version` is digits and dots (the API's FaceModelVersion); `calibration` names a file beside the card."""

    id: str
    name: str
    model_version: str
    licence: str
    training_data: str
    limits: tuple[str, ...]
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
class Models:
    """A loaded pack: what the services compute with. `calibration` is None where the pack has none: then it answers no similarity."""

    card: Card
    detector: Detector
    recogniser: Recogniser
    calibration: Calibration | None


def read_card(text: str, where: str) -> Card:
    """A card from TOML; an unknown or missing key, or a version that is not digits and dots, raises BadRequest naming it."""
    card = strict.table(Card, strict.parse(text, where), where)
    if not card.model_version or set(card.model_version) - set("0123456789."):
        raise BadRequest(f"{where}: model_version must be digits and dots, as the API demands, not '{card.model_version}'")
    names = [card.id, *([card.calibration] if card.calibration else []), *(part.file for part in card.files)]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name in ("card.toml", "calibration.json"):
            raise BadRequest(f"{where}: '{name}' must be a plain name of letters, digits, '.', '_' and '-', without a folder")
    if len(set(names)) < len(names):
        raise BadRequest(f"{where}: the pack's id and its files must have different names")
    return card


class PackFolder:
    """The installed packs in one folder, each in a subfolder of its id, and the cards that ship with Aboveboard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ids(self) -> list[str]:
        """Every pack that has a card, shipped or installed."""
        shipped = {file.name.removesuffix(".toml") for file in _shipped("cards").iterdir() if file.name.endswith(".toml")}
        return sorted(shipped | {card.parent.name for card in self.folder.glob("*/card.toml")})

    def card(self, pack: str) -> Card:
        """A pack's card: the shipped one, else the installed one. Raises NoSuch where there is neither."""
        for file in (_shipped("cards") / f"{pack}.toml", self.folder / pack / "card.toml"):
            if pack == Path(pack).name and file.is_file():
                return read_card(file.read_text(), file.name)
        raise NoSuch(f"there is no model pack '{pack}'; known are {', '.join(self.ids())}")

    def is_installed(self, pack: str) -> bool:
        return all((self.folder / pack / part.file).is_file() for part in self.card(pack).files)

    def install(self, pack: str, index: str, progress: registry.Progress) -> Card:
        """Fetch the pack's files from their sources, checked and written whole; files that are there already are only checked."""
        card, cache = self.card(pack), dict[str, bytes]()
        for part in card.files:
            file = self.folder / pack / part.file
            try:
                session.verified_bytes(file, part.sha256)
            except Unavailable:
                registry.write_whole(file, registry.fetch(part.sources, part.sha256, index, progress, cache))
        return card

    def install_from(self, folder: Path) -> Card:
        """Install from a folder: its card.toml (or, without one, a shipped card whose files it holds), the files, the calibration."""
        own = folder / "card.toml"
        if own.is_file():
            card = read_card(own.read_text(), str(own))
            if (_shipped("cards") / f"{card.id}.toml").is_file():
                raise BadRequest(f"{own}: the id '{card.id}' belongs to a pack that ships with Aboveboard; choose another")
        else:
            card = self._shipped_card_for(folder)
        contents = {part.file: session.verified_bytes(folder / part.file, part.sha256) for part in card.files}
        if own.is_file():
            if card.calibration:
                try:
                    text = (folder / card.calibration).read_text()
                    _matching(Calibration.from_json(text), card)
                except (OSError, ValueError) as error:
                    raise BadRequest(f"{folder / card.calibration}: {error}") from error
                contents[card.calibration] = text.encode()
            contents["card.toml"] = own.read_bytes()
        for name, data in contents.items():
            registry.write_whole(self.folder / card.id / name, data)
        return card

    def verify(self, pack: str) -> Card:
        """Check every file of an installed pack against its card; raises Unavailable naming the file that differs."""
        card = self.card(pack)
        for part in card.files:
            session.verified_bytes(self.folder / pack / part.file, part.sha256)
        return card

    def calibration(self, pack: str) -> Calibration | None:
        """The pack's calibration: one made here (calibration.json in its folder) before the one that its card names."""
        card = self.card(pack)
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
        """Open the pack's models. Raises Unavailable where a file is missing or differs from its card."""
        card = self.card(pack)
        return Models(card, self._detector(card), self._recogniser(card), self.calibration(pack))

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

    def _shipped_card_for(self, folder: Path) -> Card:
        for pack in self.ids():
            card = self.card(pack)
            if card.files and all((folder / part.file).is_file() for part in card.files):
                return card
        raise BadRequest(f"{folder} holds neither a card.toml nor the files of a known pack; see docs/bring-your-own-model.md")


def _matching(calibration: Calibration, card: Card) -> Calibration:
    if calibration.model_version != card.model_version:
        raise ValueError(f"it was made for model version {calibration.model_version}, the card says {card.model_version}")
    return calibration


def _shipped(folder: str, package: str = "aboveboard.vision") -> Path:
    return Path(str(resources.files(package))) / folder
