"""Settings -> App: the only module that names every adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import cv2
from threadpoolctl import threadpool_limits

from aboveboard.accountability.cases import Cases
from aboveboard.accountability.catalogue import Policies
from aboveboard.accountability.gate import Gate
from aboveboard.accountability.operators import Operators
from aboveboard.accountability.standing import Standing
from aboveboard.errors import BadRequest, NoSuch, Unavailable
from aboveboard.remote import Remote
from aboveboard.service import keep, record
from aboveboard.service.app import App
from aboveboard.settings import Settings, cores
from aboveboard.storage.checkpoints import Checkpoints
from aboveboard.storage.collections import Collections
from aboveboard.storage.database import MEND, Database
from aboveboard.storage.erasures import Erasures
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.objects import Objects
from aboveboard.storage.reindexings import Reindexings
from aboveboard.storage.requests import Requests
from aboveboard.storage.secrets import Keyring
from aboveboard.storage.subjects import Subjects
from aboveboard.storage.templates import Templates
from aboveboard.vision.media import Room
from aboveboard.vision.on_demand import Attributes, Labels
from aboveboard.vision.packs import PackFolder


def open_app(settings: Settings, *, check: bool = False) -> App:
    """Open the deployment in `settings.data`, made there if it is new. Raises Error with what to mend where it cannot be.

    `check` has the database's structure examined while the models are loaded, and opens none that is damaged.
    """
    # Requests run side by side, one thread each: threads inside a request would only wait for each other.
    threadpool_limits(limits=1, user_api="blas")
    cv2.setNumThreads(1)
    packs = PackFolder(settings.models)
    try:
        policies = Policies(settings.default_policy, settings.minimum_policy, settings.policies)
        if settings.label_pack:
            packs.label_card(settings.label_pack)
        if settings.attribute_pack:
            packs.attribute_card(settings.attribute_pack)
        if not packs.is_installed(settings.pack):
            raise Unavailable(f"the model pack '{settings.pack}' is not installed in {settings.models}; run: aboveboard models install")
    except NoSuch as error:
        raise BadRequest(f"settings: {error.message}") from error
    if list(settings.data.glob(f"{keep.UNDER_WAY}*")):
        raise Unavailable(f"a restore of {settings.data} was interrupted; `aboveboard restore DIR` ends it")
    file = settings.data / keep.DATABASE
    before = file.stat().st_ino if file.exists() else None
    keyring = Keyring.open(settings.data / keep.MASTER_KEY, create=before is None)
    database = Database(file)
    # Else what is written would go into the log of the new database, out of the pages of the old.
    if before not in (None, file.stat().st_ino):
        database.close()
        raise Unavailable(f"{settings.data} was restored while it was opened; start again")
    ledger, collections = Ledger(database), Collections(database)
    with ThreadPoolExecutor(1) as beside:
        damage = beside.submit(database.damage) if check else None
        models = packs.load(settings.pack)
        if damage and (found := damage.result()):
            database.close()
            raise Unavailable(f"the database {file} is damaged: {'; '.join(found[:3])}; {MEND}")
    operators, standing = Operators(database, keyring, ledger), Standing(database, ledger)
    cases = Cases(database, keyring, ledger, operators)
    gate = Gate(policies, ledger, collections, Templates(database), models, standing, cases)
    record.keep_packs(database, ledger, policies)
    record.commit_galleries(database, ledger)
    return App(
        settings,
        database,
        keyring,
        ledger,
        collections,
        Subjects(database),
        Requests(database),
        Reindexings(database),
        Erasures(database),
        models,
        Labels(packs, settings.label_pack),
        Attributes(packs, settings.attribute_pack),
        Room(settings.images_at_once or cores(), max(settings.pixels_at_once, settings.max_image_pixels)),
        operators,
        standing,
        cases,
        gate,
        Objects(settings.buckets, settings.s3_endpoint, settings.s3_region, settings.s3_profile),
        Checkpoints(ledger, keyring, settings.checkpoints, is_own=settings.checkpoints == settings.data / "checkpoints"),
        database.scrub,
    )


def shared(app: App, others: Sequence[Any]) -> dict[str, Any]:
    """What several processes of one deployment have one of between them, by name: for the process that holds it.

    `others`: the databases of the other processes.
    """
    return {"templates": Templates(app.database), "room": app.room, "scrubber": _Scrubber(app.database, others)}


def holding(app: App, shared: Mapping[str, Any]) -> App:
    """The deployment for the process that holds what is `shared`."""
    return _with_templates(app, shared["templates"], scrub=shared["scrubber"].scrub)


def sharing(app: App, remote: Remote) -> App:
    """The deployment for a process that asks another one for what is `shared`."""
    return _with_templates(app, remote.stand_in("templates"), room=_SharedRoom(remote), scrub=remote.stand_in("scrubber").scrub)


def _with_templates(app: App, templates: Any, **more: Any) -> App:
    return replace(app, gate=Gate(app.gate.policies, app.ledger, app.collections, templates, app.models, app.standing, app.cases), **more)


class _Scrubber:
    """Scrubs the databases of every process."""

    def __init__(self, own: Database, others: Sequence[Any]) -> None:
        self._databases = [own, *others]

    def scrub(self) -> None:
        for database in self._databases:
            with suppress(Unavailable):  # a process that has ended holds nothing
                database.scrub()


class _SharedRoom(Room):
    """The room of another process: the same, for all who ask it."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        with self._remote.hold("room", "taken", pixels):
            yield

    def in_use(self) -> tuple[int, int]:
        counts: tuple[int, int] = self._remote.call("room", "in_use")
        return counts
