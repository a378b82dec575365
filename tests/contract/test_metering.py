"""Comparisons one by one in a case: counted, and judged as the search that they are together."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import pytest
from casework import code_of, replayed
from kit import assert_ledger_whole, basis, canvas, encoded, null_settings, picture, serving

from aboveboard.accountability import looks
from aboveboard.biometrics.calibration import fmr_at, fmr_for_fpir, similarity_at


def metered():
    """A pack: public-safety, whose floor is the one that keeps an FPIR of 0.001."""
    base = (resources.files("aboveboard.accountability") / "policies" / "public-safety.toml").read_text()
    for old, new in (
        ('id = "public-safety"', 'id = "metered"'),
        ("floor = 99.0\nfpir = 0.0", "floor = 0.0\nfpir = 0.001"),
        ("absent = 99.0", "absent = 50.0"),
    ):
        assert base.count(old) == 1
        base = base.replace(old, new)
    start = base.index("[[threshold.floors]]")
    return base[:start] + base[base.index("[candidates]") :]


def crowd(first, count):
    return encoded(canvas(*range(first, first + count), size=24, width=24 + 48 * count + 60))


def compare(client, faces, first=100, **more):
    return client.compare_faces(SourceImage={"Bytes": picture(1)}, TargetImage={"Bytes": crowd(first, faces)}, **more)


def test_a_thousand_comparisons_are_a_search_of_a_thousand(strict_server):
    """N, expected false and FPIR are those of all comparisons of the case; another case begins anew."""
    client = strict_server.client(strict_server.detective("comparing"))
    shown = [basis(compare(client, 100, 100 + 100 * i)) for i in range(10)]
    assert [int(one["gallery-size"]) for one in shown] == [100 * i for i in range(1, 11)]
    fmr = fmr_at(99)
    assert float(shown[-1]["expected-false"]) == pytest.approx(1000 * fmr, rel=0.01)
    assert float(shown[-1]["fpir"]) == pytest.approx(-math.expm1(1000 * math.log1p(-fmr)), rel=0.01)
    other = strict_server.client(strict_server.detective("comparing-too"))
    assert basis(compare(other, 2))["gallery-size"] == "2"


def test_a_floor_that_keeps_an_fpir_rises_with_the_comparisons(tmp_path):
    """The floor is the one for all faces that are compared, those of this very picture among them; none means the floor."""
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "metered.toml").write_text(metered())
    with serving(null_settings(tmp_path / "data", default_policy="metered", policies=str(folder))) as server:
        client = server.client(server.detective("counting"))
        for n in (1, 51, 101):
            shown = basis(compare(client, 1 if n == 1 else 50))
            floor = similarity_at(fmr_for_fpir(0.001, n))
            assert (int(shown["gallery-size"]), shown["threshold-origin"]) == (n, "policy")
            assert float(shown["threshold"]) == pytest.approx(floor, abs=1e-6)
            assert float(shown["fpir"]) <= 0.001 * 1.01
        # What was enough for one is not for a hundred more, and what the refusal says to send is.
        low = similarity_at(fmr_for_fpir(0.001, 102)) + 0.01
        code, message = code_of(lambda: compare(client, 100, SimilarityThreshold=low))
        assert (code, "metered/threshold.floor" in message) == ("AccessDeniedException", True)
        enough = float(message.partition("send ")[2].split()[0])
        assert int(basis(compare(client, 100, SimilarityThreshold=math.ceil(100 * enough) / 100))["gallery-size"]) == 201
        assert_ledger_whole(server.app)


def test_a_refused_comparison_counts_for_nobody_else_not_even_for_a_moment(tmp_path, monkeypatch):
    """Others are compared while it is decided: their N has none of its faces, and the ledger is decided again as it was."""
    decided, begun = looks.decide, threading.Event()

    def slowly(pack, asked):
        if not (decision := decided(pack, asked)).is_allowed:
            begun.set()
            time.sleep(0.5)
        return decision

    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "metered.toml").write_text(metered())
    with serving(null_settings(tmp_path / "data", default_policy="metered", policies=str(folder))) as server:
        key = server.detective("racing")
        clients = [server.client(key) for _ in range(2)]
        assert basis(compare(clients[0], 1))["gallery-size"] == "1"
        monkeypatch.setattr(looks, "decide", slowly)
        low = similarity_at(fmr_for_fpir(0.001, 2)) + 0.01
        with ThreadPoolExecutor(1) as pool:
            refused = pool.submit(code_of, lambda: compare(clients[0], 100, SimilarityThreshold=low))
            assert begun.wait(20)
            assert basis(compare(clients[1], 1))["gallery-size"] == "2"
            assert refused.result()[0] == "AccessDeniedException"
        assert basis(compare(clients[1], 1))["gallery-size"] == "3"
        assert replayed(server) == []


def test_comparisons_at_the_same_time_are_each_counted(strict_server):
    """Eight at once in one case: no two of them say the same N, and the last says all."""
    key = strict_server.detective("hurried")
    clients = [strict_server.client(key) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda client: compare(client, 10), clients))
    assert sorted(int(basis(answer)["gallery-size"]) for answer in answers) == [10 * i for i in range(1, 9)]
    assert strict_server.app.cases.get("case of hurried").comparisons == 80
