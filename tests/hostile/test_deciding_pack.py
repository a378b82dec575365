"""The pack that a look is decided by: that of the server that answered it, by what the server said at its start."""

from __future__ import annotations

from typing import Any

import pytest
import rfc8785
from kit import null_settings, serving
from test_decision_attacks import SUSPECT, aged, changed, seqs, started
from test_ledger_attacks import Rows

from aboveboard.accountability.catalogue import Policies
from aboveboard.accountability.gate import pack_facts
from aboveboard.accountability.replay import Replay
from aboveboard.accountability.verify_ledger import Report
from aboveboard.service import record


def again(policies: Policies, rows: Rows) -> dict[str, str]:
    """The first fault of each kind in these entries, when their decisions are made again."""
    one = Replay({pack.sha256: pack for pack in policies.all()}, report := Report())
    for row in rows:
        one.add(rfc8785.dumps(row))
    one.end()
    return report.faults()


OWN = 'extends = "general"\nid = "own"\nversion = "{}"\neffective_from = "{}-01-01"\n'


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policies, Rows]:
    """The packs and the entries of a server whose default has two versions in force, with a comparison and two searches."""
    folder = tmp_path_factory.mktemp("own")
    for version, year in enumerate((2020, 2021, 2999), 1):
        (folder / f"own-{version}.toml").write_text(OWN.format(version, year))
    chosen = null_settings(folder / "data", default_policy="own", policies=str(folder))
    with serving(chosen) as server, record.served(server.app):
        client = server.client()
        for name, tags in (("plain", {}), ("tagged", {"aboveboard:policy": "general"})):
            client.create_collection(CollectionId=name, Tags=tags)
        client.compare_faces(SourceImage=SUSPECT, TargetImage=SUSPECT)
        for name in ("plain", "tagged"):
            client.search_faces_by_image(CollectionId=name, Image=SUSPECT)
    return server.app.gate.policies, server.entries()


def by(rows: Rows, n: int, pack: Any, **changes: Any) -> Rows:
    return changed(rows, seqs(rows, "look.intent")[n], policy=pack_facts(pack), **changes)


def test_a_pack_in_the_bundle_is_not_enough(own: tuple[Policies, Rows]) -> None:
    """An older version of the default, and of what a tag names; another pack of the server's, without a tag."""
    policies, rows = own
    one, two, _ = (pack for pack in policies.all() if pack.id == "own")
    assert [row["policy"]["version"] for row in rows if row["type"] == "look.intent"] == ["2", "2", "2"]
    assert again(policies, rows) == {}
    tagged = changed(rows, seqs(rows, "collection.created")[1], tags={"aboveboard:policy": "own"})
    assert again(policies, by(tagged, 2, two)) == {}
    for attack in (by(rows, 0, one), by(rows, 1, one), by(tagged, 2, one)):
        assert "decided by the pack own 1; by what the server said at its start it is " in again(policies, attack)["policy"]
    general = by(rows, 0, policies.get("general"))
    assert again(policies, general)["policy"].endswith("decided by the pack general 2; by what the server said at its start it is own 2")
    start = seqs(rows, "server.started")[0]
    unannounced = changed(
        rows, start, policies=[named for named in rows[start]["policies"] if (named["id"], named["version"]) != ("own", "2")]
    )
    assert "own 2; by what the server said at its start it is own 1" in again(policies, unannounced)["policy"]


def test_servers_that_follow_each_other_or_run_beside_each_other_decide_each_by_its_own(own: tuple[Policies, Rows]) -> None:
    """Restarted with other settings, killed before, two at once, none that said: no fault; what was stopped long ago decides no more."""
    policies, rows = own
    seq = seqs(rows, "look.intent")[0]
    general, time = by(rows, 0, policies.get("general")), rows[seq]["time"]
    other, stop = started(time, Policies("general", "general")), {"seq": -1, "time": time, "type": "server.stopped", "version": "1"}
    start = seqs(rows, "server.started")[0]

    def beside(rows: Rows, *more: dict[str, Any]) -> Rows:
        return [*rows[:seq], *more, *rows[seq:]]

    assert set(again(policies, general)) == {"policy"}
    assert again(policies, beside(general, other)) == {}
    assert again(policies, beside(rows, other)) == {}
    assert again(policies, beside(rows, stop, other)) == {}, "a request of the one that was just stopped"
    assert again(policies, [row for row in general if row["seq"] != start]) == {}
    assert again(policies, changed(general, seq, via="cli")) == {}
    assert set(again(policies, aged(beside(rows, {**stop, "seq": 0}, {**other, "seq": 0}), seq))) == {"policy"}
