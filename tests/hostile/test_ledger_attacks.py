"""What is done to a ledger in its SQLite file, and what an outsider's verifier says to it.

Who attacks holds everything: file, master key, the folder of checkpoints, and signs whatever he likes with the deployment's own key. The
outsider has what he kept before: the checkpoints and the verifier key.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from kit import null_settings, picture, serving
from typer.testing import CliRunner

from aboveboard.cli import app
from aboveboard.storage.merkle import grow, leaf_hash

FIRST, SIZE = 7, 11
"""Entries under the first checkpoint that was kept, and under the second."""
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a deployment of four searches, `data`, and what an outsider kept of it: checkpoints and key."""
    folder = tmp_path_factory.mktemp("ledger")
    with serving(null_settings(folder / "data")) as server:
        client = server.client()
        client.create_collection(CollectionId="people")
        client.index_faces(CollectionId="people", Image={"Bytes": picture(1, 2)})
        for take in range(4):
            client.search_faces_by_image(CollectionId="people", Image={"Bytes": picture(1, take=take, variation=0.1)})
            if take in (1, 3):
                server.app.checkpoints.write()
        (folder / "key").write_text(server.app.checkpoints.verifier_key)
    shutil.copytree(folder / "data" / "checkpoints", folder / "kept")
    assert [int(file.name[:12]) for file in sorted((folder / "kept").iterdir())] == [FIRST, SIZE]
    return folder


@pytest.fixture
def data(before: Path, tmp_path: Path) -> Path:
    """A copy of that deployment, to be attacked."""
    return shutil.copytree(before / "data", tmp_path / "data")


@pytest.fixture
def judged(before: Path, data: Path, tmp_path: Path) -> Callable[..., tuple[int, dict[str, list[str]]]]:
    """Export the deployment as it is now and verify it as an outsider does: exit code, and what is said, by kind."""

    def judge(*options: str, is_kept: bool = True) -> tuple[int, dict[str, list[str]]]:
        bundle = tmp_path / "bundle"
        if not bundle.exists():
            verb(data, "export", str(bundle))
        kept = ["--checkpoints", str(before / "kept"), "--key", str(before / "key")] if is_kept else []
        return verdict(bundle, *kept, *options)

    return judge


def verb(data: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["ledger", *arguments], env={"ABOVEBOARD_PACK": "null", "ABOVEBOARD_DATA": str(data)})
    assert result.exit_code == 0, result.output
    return result.stdout


def verdict(bundle: Path, *options: str) -> tuple[int, dict[str, list[str]]]:
    """What the bundle's own program says, in a process that sees nothing of Aboveboard."""
    program = [
        sys.executable,
        "-c",
        f"import sys, runpy; sys.modules['aboveboard'] = None; runpy.run_path({str(bundle / 'verify_ledger.py')!r}, run_name='__main__')",
    ]
    done = subprocess.run([*program, str(bundle), *options], capture_output=True, text=True, timeout=60, cwd=bundle.parent)
    assert done.stderr == ""
    said: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith(("fault, ", "note, ")):
            kind, _, text = line.partition(": ")
            said.setdefault(kind, []).append(text)
    assert done.returncode == (1 if any(kind.startswith("fault") for kind in said) else 0), done.stdout
    return done.returncode, said


# --- what is done to the file ---------------------------------------------------------------------------------------------------


def rows_of(data: Path) -> Rows:
    with sqlite3.connect(data / "aboveboard.db") as file:
        return [json.loads(entry) for (entry,) in file.execute("SELECT entry FROM ledger ORDER BY seq")]


def put(data: Path, seq: int, entry: dict[str, Any]) -> None:
    """Change one entry, and nothing else."""
    with sqlite3.connect(data / "aboveboard.db") as file:
        assert file.execute("UPDATE ledger SET entry = ? WHERE seq = ?", (rfc8785.dumps(entry), seq)).rowcount == 1


def rewrite(data: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Put these entries in the place of all, numbered anew, outcomes naming their intents, with the state that they give."""
    intents: dict[str, int] = {}
    subtrees: list[bytes] = []
    with sqlite3.connect(data / "aboveboard.db") as file:
        file.execute("DELETE FROM ledger")
        for seq, row in enumerate(rows):
            entry = {**row, "seq": seq}
            if row["type"] == "look.intent":
                intents[row["audit_id"]] = seq
            elif row["type"] == "look.outcome":
                entry["intent"] = intents.get(row["audit_id"], row["intent"])
            raw = rfc8785.dumps(entry)
            file.execute("INSERT INTO ledger VALUES (?, ?)", (seq, raw))
            subtrees = grow(subtrees, seq, leaf_hash(raw))
        file.execute("UPDATE ledger_state SET size = ?, subtrees = ?", (len(rows), b"".join(subtrees)))


def edited(rows: Rows, seq: int, **changes: Any) -> Rows:
    return [*rows[:seq], {**rows[seq], **changes}, *rows[seq + 1 :]]


def edit(data: Path) -> None:
    put(data, 3, {**rows_of(data)[3], "operator": "nobody"})


def edit_and_recompute(data: Path) -> None:
    rewrite(data, edited(rows_of(data), 3, operator="nobody"))


def delete(data: Path) -> None:
    with sqlite3.connect(data / "aboveboard.db") as file:
        file.execute("DELETE FROM ledger WHERE seq = 5")


def delete_a_look_and_recompute(data: Path) -> None:
    rows = rows_of(data)
    rewrite(data, rows[:5] + rows[7:])


def insert_and_recompute(data: Path) -> None:
    rows = rows_of(data)
    rewrite(data, [*rows[:5], {**rows[2], "time": rows[4]["time"]}, *rows[5:]])


def reorder(data: Path) -> None:
    rows = rows_of(data)
    put(data, 3, rows[5])
    put(data, 5, rows[3])


def reorder_and_recompute(data: Path) -> None:
    rows = rows_of(data)
    rewrite(data, [*rows[:3], *rows[5:7], *rows[3:5], *rows[7:]])


def truncate(data: Path) -> None:
    rewrite(data, rows_of(data)[:9])


def fork(data: Path) -> None:
    """Another history of the same size, signed like the first."""
    rows = rows_of(data)
    rewrite(data, edited(rows, SIZE - 1, candidates=[]))
    verb(data, "checkpoint")


def roll_back(data: Path) -> None:
    """The database and the checkpoints beside it as they were after the first checkpoint."""
    rewrite(data, rows_of(data)[:FIRST])
    for file in (data / "checkpoints").glob(f"{SIZE:012d}*"):
        file.unlink()


def roll_back_and_go_on(data: Path) -> None:
    """Rolled back, and other things have happened since."""
    rows = rows_of(data)
    roll_back(data)
    rewrite(data, [*rows[:FIRST], *({**rows[2], "time": rows[6]["time"]} for _ in range(SIZE - FIRST + 3))])


def back_date(data: Path) -> None:
    rows = rows_of(data)
    rewrite(data, edited(edited(rows, 7, time="2020-01-01T00:00:00.000Z"), 8, time="2020-01-01T00:00:00.000Z"))


def change_candidates(data: Path) -> None:
    rewrite(data, edited(rows_of(data), 8, candidates=[]))


def remove_an_outcome(data: Path) -> None:
    rows = rows_of(data)
    rewrite(data, rows[:8] + rows[9:])


def swap_an_outcomes_look(data: Path) -> None:
    rows = rows_of(data)
    with_other = edited(rows, 8, audit_id=rows[4]["audit_id"])
    rewrite(data, with_other)


def swap_the_key(data: Path) -> None:
    (data / "master.key").write_bytes(os.urandom(32))
    for file in (data / "checkpoints").iterdir():
        file.unlink()


AGAIN = "they were changed and signed anew"
SAYS: dict[Callable[[Path], None], dict[str, str]] = {
    edit: {"fault, changed": "from 0 to 6: they were changed after that", "fault, unsigned": "covers the entries 0 to 11"},
    edit_and_recompute: {"fault, rewritten": f"signs other entries from 0 to 6: {AGAIN}"},
    delete: {
        "fault, sequence": "entry 6 stands where 5 should", "fault, pairing": "entry 6 is an outcome without the intent",
        "fault, missing": "signs 12 entries, here are 11", "fault, changed": "from 0 to 6", "fault, unsigned": "0 to 10",
    },
    delete_a_look_and_recompute: {"fault, rewritten": f"from 0 to 6: {AGAIN}", "fault, missing": f"signs {SIZE} entries, here are 10"},
    insert_and_recompute: {"fault, rewritten": f"from 0 to 6: {AGAIN}"},
    reorder: {
        "fault, sequence": "entry 5 stands where 3 should", "fault, clock": "and no entry says why", "fault, pairing": "",
        "fault, changed": "from 0 to 6", "fault, unsigned": "", "note, unfinished": "entry 3 of ",
    },
    reorder_and_recompute: {"fault, clock": "entry 5 is of", "fault, rewritten": f"from 0 to 6: {AGAIN}"},
    truncate: {"fault, missing": f"signs {SIZE} entries, here are 10: cut off, or put back"},
    fork: {"fault, fork": f"sign two histories of {SIZE} entries", "fault, rewritten": f"from {FIRST} to {SIZE - 1}: {AGAIN}"},
    roll_back: {"fault, missing": f"signs {SIZE} entries, here are {FIRST + 1}: cut off, or put back"},
    roll_back_and_go_on: {"fault, rewritten": f"from {FIRST} to {SIZE - 1}: {AGAIN}"},
    back_date: {"fault, clock": "entry 7 is of 2020-01-01T00:00:00.000Z", "fault, rewritten": f"from {FIRST} to {SIZE - 1}: {AGAIN}"},
    change_candidates: {"fault, rewritten": f"from {FIRST} to {SIZE - 1}: {AGAIN}"},
    remove_an_outcome: {"fault, fork": f"two histories of {SIZE} entries", "fault, changed": "", "note, unfinished": "entry 7 of "},
    swap_an_outcomes_look: {
        "fault, pairing": "entry 8 is an outcome without the intent", "fault, rewritten": "", "note, unfinished": "entry 7 of ",
    },
    swap_the_key: {"fault, key": "is of another key", "fault, signature": "is not signed by the key", "fault, unsigned": ""},
}  # fmt: skip
"""Attack -> what is said to it, and nothing else: kinds, and a part of the first text of each."""


def test_a_ledger_that_nobody_touched_is_whole(judged: Callable[..., Any], data: Path) -> None:
    """With what was kept elsewhere and without."""
    assert judged() == (0, {})
    assert judged(is_kept=False) == (0, {})


@pytest.mark.parametrize("attack", SAYS, ids=lambda attack: attack.__name__)
def test_an_attack_is_named(attack: Callable[[Path], None], judged: Callable[..., Any], data: Path) -> None:
    """Each by its kind of fault and by the entries that it is about."""
    attack(data)
    code, said = judged()
    assert code == 1
    assert set(said) == set(SAYS[attack]), said
    for kind, text in SAYS[attack].items():
        assert text in said[kind][0], said


@pytest.mark.parametrize("attack", [roll_back, swap_the_key], ids=lambda attack: attack.__name__)
def test_what_nobody_kept_elsewhere_cannot_be_seen(attack: Callable[[Path], None], judged: Callable[..., Any], data: Path) -> None:
    """Who holds file, key and folder can write a history that agrees with itself: the documents say so, and this is why."""
    attack(data)
    assert judged(is_kept=False) == (0, {})
    assert judged()[0] == 1


def test_a_bundle_that_was_changed_on_its_way_is_named(judged: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    """One byte of each file, a file more, a file less; and entries with a manifest that was put right."""
    judged()
    bundle = tmp_path / "bundle"
    for name in ("entries.jsonl", "verifier-key.txt", *(f"checkpoints/{file.name}" for file in (bundle / "checkpoints").iterdir())):
        whole = (bundle / name).read_bytes()
        (bundle / name).write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
        code, said = outcome_of(bundle)
        assert code in (1, 2)
        assert code == 2 or f"the file {name} is not the one that was exported" in said["fault, manifest"]
        (bundle / name).write_bytes(whole)
    (bundle / "more").write_text("")
    assert verdict(bundle)[1] == {"fault, manifest": ["the file more is not in the manifest"]}
    (bundle / "more").unlink()
    entries = (bundle / "entries.jsonl").read_bytes()
    (bundle / "entries.jsonl").write_bytes(entries.replace(b'"seq":1,', b'"seq": 1,'))
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["files"]["entries.jsonl"] = hashlib.sha256((bundle / "entries.jsonl").read_bytes()).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert verdict(bundle)[1]["fault, canonical"][0].startswith("entry 1 is not an entry in canonical form")
    for wrong in (b"", b"{}", b'{"files": []}', b"\xff", b"[" * 100_000):
        (bundle / "manifest.json").write_bytes(wrong)
        assert outcome_of(bundle)[0] in (1, 2)


def outcome_of(bundle: Path) -> tuple[int, dict[str, list[str]]]:
    """As `verdict`, for bundles that may be none: 2, and one line that says why."""
    done = subprocess.run([sys.executable, str(bundle / "verify_ledger.py")], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    if done.returncode == 2:
        assert done.stdout.startswith("error: ")
        assert done.stdout.count("\n") == 1
        return 2, {}
    return verdict(bundle)


@pytest.fixture
def proof(before: Path, data: Path) -> Any:
    """Of entry 4, against the first checkpoint that was kept."""
    return json.loads(verb(data, "prove", "4", "--against", str(sorted((before / "kept").iterdir())[0])))


def test_a_proof_holds_for_its_entry_and_its_checkpoint_only(before: Path, data: Path, judged: Any, proof: Any, tmp_path: Path) -> None:
    """One entry, shown without the others; a changed one, another one, or one of another log is refused."""
    judged()
    first, second = sorted((before / "kept").iterdir())

    def shown(document: dict[str, Any], kept: Path) -> tuple[int, str]:
        (tmp_path / "proof.json").write_text(json.dumps(document))
        options = ["--proof", str(tmp_path / "proof.json"), "--key", str(before / "key"), "--checkpoints", str(kept)]
        done = subprocess.run(
            [sys.executable, str(tmp_path / "bundle" / "verify_ledger.py"), *options], capture_output=True, text=True, timeout=60
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    code, text = shown(proof, first)
    assert (code, text.startswith("entry 4 is in the log of 11 entries")) == (0, True)
    assert "it begins with the 7 entries of the kept checkpoint" in text
    assert json.loads(proof["entry"])["type"] == "look.outcome"
    assert shown({**proof, "entry": proof["entry"].replace('"looked":true', '"looked":false')}, first)[0] == 1
    assert shown({**proof, "seq": 5}, first)[0] == 1
    assert shown({**proof, "consistency": proof["consistency"][:-1]}, first)[0] == 1
    assert shown({**proof, "consistency": []}, first)[0] == 1
    assert shown({**proof, "inclusion": []}, first)[0] == 1
    assert shown({**proof, "checkpoint": proof["against"]}, second)[0] == 1
    assert shown({}, first)[0] == 2


def test_who_rewrote_the_ledger_can_prove_nothing_against_an_older_checkpoint(before: Path, data: Path) -> None:
    """The verb refuses, and says what to do."""
    rewrite(data, edited(rows_of(data), 3, operator="nobody"))
    kept = str(sorted((before / "kept").iterdir())[0])
    environment = {"ABOVEBOARD_PACK": "null", "ABOVEBOARD_DATA": str(data)}
    result = CliRunner().invoke(app, ["ledger", "prove", "4", "--against", kept], env=environment)
    assert (result.exit_code, "does not begin with the 7 entries of the kept checkpoint" in result.stderr) == (2, True)
