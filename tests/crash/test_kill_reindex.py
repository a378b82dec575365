"""kill -9 in the middle of a re-indexing and around its switch-over: the collection is at one model, whole, and the work goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from kit import assert_ledger_whole, null_settings, other_pack, picture, serving
from typer.testing import CliRunner

from aboveboard import bootstrap
from aboveboard.cli import app as program
from aboveboard.storage.schema import REINDEXINGS, SHADOW_TEMPLATES, TEMPLATES

SUBJECTS = range(1, 17)
ENDS = """
import os, signal, sys
from aboveboard.storage.{module} import {owner}
real = {owner}.{method}
def dying(self, *how):
    done = real(self, *how)
    if {condition}:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
{owner}.{method} = dying
from aboveboard.cli import main
sys.argv[1:] = {arguments!r}
main()
"""
INSIDE = {"module": "ledger", "owner": "Ledger", "method": "append", "condition": 'how[1] == "collection.reindexed"'}
BEFORE = {"module": "reindexings", "owner": "Reindexings", "method": "switch", "condition": "True"}


@pytest.fixture
def deployment(tmp_path: Path):
    """A collection of sixteen faces on the null pack, their photographs, and the pack `other`; gives settings, key and folder."""
    settings, folder = null_settings(tmp_path / "data"), tmp_path / "originals"
    other_pack(settings.models)
    folder.mkdir()
    with serving(settings) as server:
        client = server.client()
        client.create_collection(CollectionId="a")
        for subject in SUBJECTS:
            (folder / f"{subject}.png").write_bytes(picture(subject))
            client.index_faces(CollectionId="a", Image={"Bytes": picture(subject)}, ExternalImageId=f"{subject}.png")
        return settings, server.key, folder


def command(folder: Path) -> list[str]:
    return ["collection", "reindex", "a", "--originals", str(folder), "--pack", "other", "--workers", "2"]


def environment(settings) -> dict[str, str]:
    machine = {"ABOVEBOARD_PACK": "null", "ABOVEBOARD_DATA": str(settings.data), "ABOVEBOARD_MODELS": str(settings.models)}
    return {"PATH": os.environ["PATH"], "HOME": str(settings.data.parent), **machine}


def state(settings) -> tuple[str, set[int], int, int]:
    """The collection's model version, the sizes of its templates, re-indexings under way, new templates kept."""
    app = bootstrap.open_app(settings)
    assert_ledger_whole(app)
    with app.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        sizes = connection.execute(sa.select(sa.func.length(TEMPLATES.c.vector))).scalars().all()
        counts = [connection.execute(sa.select(sa.func.count()).select_from(one)).scalar_one() for one in (REINDEXINGS, SHADOW_TEMPLATES)]
    assert len(sizes) == len(SUBJECTS)
    version = app.collections.get("a").model_version
    app.database.close()
    return version, set(sizes), counts[0], counts[1]


def finished(settings, key, folder) -> None:
    """Run once more it ends, at the new model alone, and every face is found under it."""
    done = CliRunner().invoke(program, command(folder), env=environment(settings))
    assert done.exit_code == 0, done.output
    assert state(settings) == ("900.1", {4 * 512}, 0, 0)
    app = bootstrap.open_app(settings)
    entries = [entry for entry in assert_ledger_whole(app) if entry["type"].startswith("collection.reindex")]
    app.database.close()
    assert [entry["type"] for entry in entries] == ["collection.reindexing", "collection.reindexed"]
    with serving(null_settings(settings.data, pack="other", models=str(settings.models)), key) as server:
        for subject in SUBJECTS:
            matches = server.client().search_faces_by_image(CollectionId="a", Image={"Bytes": picture(subject)})["FaceMatches"]
            assert matches[0]["Face"]["ExternalImageId"] == f"{subject}.png"


@pytest.mark.parametrize("end", [BEFORE, INSIDE], ids=["after the templates moved", "after the entry was written"])
def test_killed_inside_the_switch_over_nothing_has_happened(deployment, end):
    """The transaction is one: templates, model and entry, or none of them; all the work before it is kept."""
    settings, key, folder = deployment
    script = ENDS.format(arguments=command(folder), **end)
    died = subprocess.run([sys.executable, "-c", script], env=environment(settings), capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL
    assert state(settings) == ("0.1", {4 * 64}, 1, len(SUBJECTS))
    finished(settings, key, folder)


@pytest.mark.long
def test_killed_at_any_moment_it_goes_on(deployment):
    """Twelve kills at random moments, until it ends by itself or they are used up: never half of one and half of the other."""
    settings, key, folder = deployment
    moments, kept = random.Random(7), 0
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-m", "aboveboard", *command(folder)], env=environment(settings), stderr=subprocess.DEVNULL
        )
        time.sleep(1 + 2 * moments.random())
        process.kill()
        process.wait()
        version, sizes, under_way, shadow = state(settings)
        assert (version, sizes, under_way) in [("0.1", {4 * 64}, 0), ("0.1", {4 * 64}, 1), ("900.1", {4 * 512}, 0)]
        assert shadow >= kept or version == "900.1"
        kept = shadow
    finished(settings, key, folder)
