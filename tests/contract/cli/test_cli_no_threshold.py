"""What the article describes: a pack without a threshold, at most five candidates, whoever is searched for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit import Server, basis, picture

NOBODY = picture(40)


def test_somebody_who_is_not_enrolled_brings_five(run: Callable[..., Any], make_server: Callable[..., Server], tmp_path: Path) -> None:
    """wcso-2019: five of five wrong, on record as a search without a threshold; public-safety refuses it; the CLI says so beside it."""
    server = make_server()
    client = server.client()
    client.create_collection(CollectionId="mugshots", Tags={"aboveboard:policy": "wcso-2019"})
    for i in range(7):
        client.index_faces(CollectionId="mugshots", Image={"Bytes": picture(i)}, ExternalImageId=f"person-{i}")
    before = server.entry_count()
    answer = client.search_faces_by_image(CollectionId="mugshots", Image={"Bytes": NOBODY}, MaxFaces=100)
    assert len(answer["FaceMatches"]) == 5
    shown = basis(answer)
    assert (shown["policy"], shown["threshold"], shown["threshold-origin"], shown["fpir"]) == ("wcso-2019", "0", "none", "1")
    assert server.entries(before)[0]["threshold"] == {"floor": 0, "origin": "none", "value": 0}
    client.create_collection(CollectionId="arrests", Tags={"aboveboard:policy": "public-safety"})
    with pytest.raises(client.exceptions.AccessDeniedException, match="public-safety/"):
        client.search_faces_by_image(CollectionId="arrests", Image={"Bytes": NOBODY})

    photograph = tmp_path / "nobody.png"
    photograph.write_bytes(NOBODY)
    run("collection", "create", "mugshots", "--policy", "wcso-2019")
    for i in range(7):
        (tmp_path / f"person-{i}.png").write_bytes(picture(i))
    run("index", *[tmp_path / f"person-{i}.png" for i in range(7)], "-c", "mugshots")
    said = run("search", photograph, "-c", "mugshots").stdout
    assert "5 of 5 wrong if not enrolled" in " ".join(said.split())
