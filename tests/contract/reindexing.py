"""What the tests of re-indexing share: a server with another pack beside its own, original photographs, what is stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from kit import Server, other_pack, picture, serving

from aboveboard import bootstrap
from aboveboard.accountability.operators import Session
from aboveboard.service.reindex import Original
from aboveboard.storage.schema import REINDEXINGS, SHADOW_TEMPLATES, TEMPLATES


def with_other_pack(server: Server) -> Server:
    """A server on the null pack with an empty collection `a`; the pack `other` is installed beside it."""
    other_pack(server.app.settings.models)
    server.client().create_collection(CollectionId="a", Tags={"team": "x"})
    return server


def photographs(folder: Path) -> Path:
    """Four photographs of subjects 1 to 6, one of them in a folder of its own."""
    (folder / "party").mkdir(parents=True)
    for name, subjects in {"one.png": (1,), "two.png": (2,), "party/all.png": (3, 4, 5), "six.png": (6,)}.items():
        (folder / name).write_bytes(picture(*subjects))
    return folder


def enrolled(server: Server, folder: Path, **external_ids: str | None) -> None:
    """Index every photograph of a folder through the API, under its file's stem unless told otherwise; None for no id."""
    for file in sorted(folder.rglob("*.png")):
        external = external_ids.get(file.stem, file.stem)
        named = {} if external is None else {"ExternalImageId": external}
        server.client().index_faces(CollectionId="a", Image={"Bytes": file.read_bytes()}, **named)


def faces(server: Server) -> list[dict[str, Any]]:
    return server.client().list_faces(CollectionId="a")["Faces"]


def answer(client: Any, subject: int) -> list[tuple[str, float]]:
    """FaceIds and similarities for another photograph of a subject."""
    found = client.search_faces_by_image(CollectionId="a", Image={"Bytes": picture(subject, take=1, variation=0.1)}, FaceMatchThreshold=50)
    return [(match["Face"]["FaceId"], match["Similarity"]) for match in found["FaceMatches"]]


def on_other(server: Server) -> Any:
    """A server on the pack `other` over the same data folder."""
    return serving(replace(server.app.settings, pack="other"), server.key)


def opened(server: Server) -> tuple[Any, Session]:
    """The same deployment opened with the pack `other`, and its operator."""
    app = bootstrap.open_app(replace(server.app.settings, pack="other"))
    return app, Session(app.operators.all()[0], "cli", "r")


def given(folder: Path) -> list[Original]:
    return [Original(file.read_bytes, (file.stem,)) for file in sorted(folder.rglob("*.png"))]


def lengths(server: Server) -> set[int]:
    with server.app.database.read() as connection:
        return set(connection.execute(sa.select(sa.func.length(TEMPLATES.c.vector))).scalars())


def shadow(server: Server) -> tuple[int, int]:
    """Re-indexings under way, templates that they keep."""
    with server.app.database.read() as connection:
        return tuple(connection.execute(sa.select(sa.func.count()).select_from(one)).scalar() for one in (REINDEXINGS, SHADOW_TEMPLATES))
