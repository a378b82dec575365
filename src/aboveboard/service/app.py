"""Everything a verb needs, in one place; built by bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aboveboard.accountability.cases import Cases
from aboveboard.accountability.gate import Gate
from aboveboard.accountability.operators import Operators
from aboveboard.accountability.standing import Standing
from aboveboard.settings import Settings
from aboveboard.storage.checkpoints import Checkpoints
from aboveboard.storage.collections import Collections
from aboveboard.storage.database import Database
from aboveboard.storage.erasures import Erasures
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.objects import Objects
from aboveboard.storage.reindexings import Reindexings
from aboveboard.storage.requests import Requests
from aboveboard.storage.secrets import Keyring
from aboveboard.storage.subjects import Subjects
from aboveboard.vision.media import Room
from aboveboard.vision.on_demand import Attributes, Labels
from aboveboard.vision.packs import Models


@dataclass(frozen=True)
class App:
    """One deployment, opened."""

    settings: Settings
    database: Database
    keyring: Keyring
    ledger: Ledger
    collections: Collections
    subjects: Subjects
    requests: Requests
    reindexings: Reindexings
    erasures: Erasures
    models: Models
    labels: Labels
    attributes: Attributes
    room: Room
    operators: Operators
    standing: Standing
    cases: Cases
    gate: Gate
    objects: Objects
    checkpoints: Checkpoints
    scrub: Callable[[], None]
    """Once a removal of templates is committed: leave nothing of them in the write-ahead log, nor in any process's connections."""
