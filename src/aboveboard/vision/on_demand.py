"""Packs that only some operations need: loaded when somebody first asks, not loaded again and again where they are broken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from aboveboard.errors import BadRequest, Refused, Unavailable
from aboveboard.vision.attributes import AttributeReader
from aboveboard.vision.packs import LabelModels, PackFolder

T = TypeVar("T")


class _OnDemand(Generic[T]):
    """One pack of a deployment; `load` opens it."""

    def __init__(self, packs: PackFolder, pack: str, load: Callable[[str], T]) -> None:
        self._packs, self._pack, self._load = packs, pack, load
        self._loaded: T | None = None
        self._broken: tuple[object, str] | None = None
        self._lock = threading.Lock()

    def _get(self) -> T | None:
        """The loaded pack, None where none is named or it is not installed; raises Unavailable where it cannot be loaded."""
        with self._lock:
            if self._loaded is None and self._pack and self._packs.is_installed(self._pack):
                state = self._packs.state(self._pack)
                if self._broken and self._broken[0] == state:
                    raise Unavailable(self._broken[1])
                try:
                    self._loaded = self._load(self._pack)
                except (BadRequest, Unavailable) as error:
                    self._broken = state, f"the pack '{self._pack}' cannot be used: {error.message}"
                    raise Unavailable(self._broken[1]) from error
            return self._loaded


class Labels(_OnDemand[LabelModels]):
    """The label pack of a deployment."""

    def __init__(self, packs: PackFolder, pack: str) -> None:
        super().__init__(packs, pack, packs.load_labels)

    def models(self) -> LabelModels:
        """The loaded pack. Raises Refused where there is none: then labels are not offered here."""
        found = self._get()
        if found is None:
            text = "labels are not provided by this server: "
            if not self._pack:
                raise Refused(f"{text}the setting 'label_pack' names no pack", rule="not-provided")
            text += f"the label pack '{self._pack}' is not installed in {self._packs.folder}"
            raise Refused(f"{text}; run: aboveboard models install {self._pack}", rule="not-provided")
        return found


class Attributes(_OnDemand[AttributeReader]):
    """The attribute pack of a deployment."""

    def __init__(self, packs: PackFolder, pack: str) -> None:
        super().__init__(packs, pack, packs.load_attributes)

    def reader(self) -> AttributeReader | None:
        """The loaded pack; None where the deployment has none: then no attribute is assessed."""
        return self._get()
