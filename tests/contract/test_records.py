"""A records office's work: a manifest, what was not enrolled, going on after a stop, and whether the ids are right."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kit import assert_ledger_whole, canvas, encoded, null_settings, picture
from typer.testing import CliRunner, Result

from aboveboard import bootstrap
from aboveboard.accountability.operators import Session
from aboveboard.cli import app
from aboveboard.cli.manifest import COLUMNS, REASONS, REPORTED
from aboveboard.errors import Busy
from aboveboard.service import check, enrol, galleries
from aboveboard.service.app import App

HEIC = Path(__file__).with_name("seven.heic")
"""A drawn face of subject 7, encoded on its side with the orientation in its Exif."""


class Office:
    """A folder of photographs, a manifest, and the program on the null pack."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest = folder, folder / "people.csv"
        self.environment = {"ABOVEBOARD_PACK": "null", "ABOVEBOARD_DATA": str(folder / "data"), "XDG_DATA_HOME": str(folder / "home")}

    def photograph(self, name: str, *subjects: int, **how: Any) -> None:
        suffix = Path(name).suffix
        (self.folder / name).write_bytes(picture(*subjects, suffix=suffix, **how))

    def write(self, *rows: str, header: str = "path,external_id,subject,date,legal_basis,disposition,expires") -> None:
        self.manifest.write_text("\n".join([header, *rows, ""]), encoding="utf-8")

    def run(self, *arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(one) for one in arguments], env=self.environment)
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    def index(self, *arguments: object, code: int = 0) -> list[dict[str, Any]]:
        """Index the manifest; the JSON lines, last the summary."""
        return documents(self.run("index", "--manifest", self.manifest, "-c", "c", "--create", "--json", *arguments, code=code))

    def failures(self, name: str = "people.failures.csv") -> list[dict[str, str]]:
        with (self.folder / name).open(newline="", encoding="utf-8") as text:
            return list(csv.DictReader(text))

    @contextmanager
    def opened(self) -> Iterator[App]:
        opened = bootstrap.open_app(null_settings(self.folder / "data"))
        try:
            yield opened
        finally:
            opened.database.close()


def documents(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def test_every_kind_of_row(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is enrolled, as whose, with which record; and each reason in the list of failures, which is a manifest again."""
    for name, subject in (("ada.png", 1), ("bob.webp", 2), ("sam.png", 9)):
        office.photograph(name, subject)
    shutil.copy(HEIC, office.folder / "seven.heic")
    office.photograph("ada again.jpg", 1, take=1, variation=0.1)
    office.photograph("two.png", 3, 4)
    (office.folder / "crowd.png").write_bytes(encoded(_crowd()))
    office.photograph("nobody.png")
    office.photograph("small.png", 5, size=17)
    office.photograph("copied.png", 1)
    (office.folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no")
    (office.folder / "animation.gif").write_bytes(b"GIF89a")
    (office.folder / "tiny.png").write_bytes(encoded(canvas(1)[:60, :60]))
    office.write(
        'ada.png,B-1,ada,2020-01-02,"PC 290, s. 3",open,2099-01-01', "ada again.jpg,B-2,ada,,,,", "bob.webp,B-3,bob,,,,",
        "seven.heic,,,,,,",
        "two.png,B-5,x,,,,", "crowd.png,B-6,y,,,,", "nobody.png,B-7,z,,,,", "small.png,B-8,s,,,,", "copied.png,B-9,c,,,,",
        "broken.jpg,,,,,,", "animation.gif,,,,,,", "tiny.png,,,,,,", "gone.png,,,,,,", "sam.png,B-14,sam,,,,2001-01-01",
    )  # fmt: skip
    *lines, last = office.index()
    assert last["summary"]["new_faces"] == last["summary"]["indexed"] == 5
    failures = office.failures()
    assert [(one["path"], one["reason"]) for one in failures] == [
        ("two.png", "ambiguous"), ("crowd.png", "partly"), ("nobody.png", "no_face"), ("small.png", "low_quality"),
        ("copied.png", "duplicate"),
        ("broken.jpg", "broken"), ("animation.gif", "unsupported_format"), ("tiny.png", "too_small"), ("gone.png", "missing"),
        ("sam.png", "expired"),
    ]  # fmt: skip
    assert list(failures[0]) == [*COLUMNS, *REPORTED]
    assert (failures[0]["external_id"], failures[0]["line"], failures[9]["expires"]) == ("B-5", "6", "2001-01-01")
    assert "17.0 px, at least 20" in failures[3]["explanation"]
    assert "line 2 (ada.png)" in failures[4]["explanation"]
    assert all(one["mend"] == REASONS[one["reason"]] for one in failures)
    with office.opened() as opened:
        collection = opened.collections.get("c")
        rows = {row.external_image_id: row for row in opened.collections.face_page(collection, 0, 100)}
        assert {name: row.subject_id for name, row in rows.items()} == {
            "B-1": "ada", "B-2": "ada", "B-3": "bob", "seven.heic": None, "B-6": "y",
        }  # fmt: skip
        assert collection.face_count == 5
        record = opened.collections.records(collection, [rows["B-1"].image_id])[rows["B-1"].image_id]
        assert (record.source, record.taken_on, record.legal_basis) == (str(office.folder / "ada.png"), "2020-01-02", "PC 290, s. 3")
        assert (record.disposition, record.expires_on) == ("open", "2099-01-01")
        entries = assert_ledger_whole(opened)
    # As a value of its own: the hexadecimal ids may spell ada.
    assert not any(name in json.dumps(entries) for name in ('"ada"', '"bob"', "PC 290", "ada.png"))
    # Corrected, the list of failures is a manifest.
    office.photograph("nobody.png", 6)
    text = (office.folder / "people.failures.csv").read_text().splitlines()
    (office.folder / "mended.csv").write_text("\n".join([text[0], *(line for line in text if line.startswith("nobody"))]))
    again = documents(office.run("index", "--manifest", office.folder / "mended.csv", "-c", "c", "--json"))
    assert [one["status"] for one in again[:-1]] == ["indexed"]
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    lines = documents(office.run("index", office.folder / "seven.heic", "-c", "d", "--create", "--json", code=4))
    assert "aboveboard[heic]" in lines[0]["error"]


def _crowd() -> Any:
    """A large face and a small one."""
    image = canvas(7, size=120, width=320)
    image[40:80, 200:240] = canvas(8, size=40)[32:72, 24:64]
    return image


def test_a_heic_shows_upright_who_is_in_it(office: Office) -> None:
    """The face that was encoded on its side is the one that was drawn."""
    office.photograph("drawn.png", 7)
    found = documents(office.run("compare", office.folder / "drawn.png", HEIC, "--json"))[0]
    assert found["candidates"][0]["similarity"] > 99


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,name\nada.png,Ada", "unknown column 'name'; known are path, external_id"),
        ("external_id\nB-1", "has no column 'path'"),
        ("path,path\na,b", "twice"),
        ("path\n", "names no photograph"),
        ("", "has no column 'path'"),
        ('path\n"ada.png', "quotation mark"),
    ],
)
def test_a_manifest_of_another_form(office: Office, text: str, said: str) -> None:
    office.manifest.write_text(text)
    assert said in " ".join(office.run("index", "--manifest", office.manifest, "-c", "c", "--create", code=2).stderr.split())
    assert not (office.folder / "data").exists()


def test_all_mistakes_are_named_by_line_before_anything_is_done(office: Office) -> None:
    office.photograph("ada.png", 1)
    rows = [
        "ada.png,ok,ada,2020-01-01,,,", "ada.png,,,,,,", "b.png,a b,,,,,", "c.png,,Zoë,,,,", "d.png,,,01.02.2020,,,",
        "e.png,,,,,,2020-02-30",
        "f.png,,,,,", ",B-7,,,,,", '"g.png",,,,"two\nlines",,', "h.png,,,2020-13-01,,,20200101",
    ]  # fmt: skip
    office.write(*rows)
    said = office.run("index", "--manifest", office.manifest, "-c", "c", "--create", code=2).stderr
    lines = [int(line.split(":")[0].split()[1]) for line in said.splitlines() if line.startswith("line ")]
    assert lines == [3, 4, 5, 6, 7, 8, 9, 10, 12, 12]
    assert "10 mistakes; nothing was enrolled" in said
    assert not (office.folder / "data").exists()


def test_what_spreadsheets_write(office: Office) -> None:
    """A byte order mark, CRLF, semicolons, upper case, empty lines; an external id on two lines is noted. Latin-1 is not guessed at."""
    office.photograph("josé.png", 1)
    office.photograph("bob.png", 2)
    text = "Path;External_ID\r\njosé.png;B-1\r\n;\r\nbob.png;B-1\r\n"
    office.manifest.write_bytes(b"\xef\xbb\xbf" + text.encode())
    result = office.run("index", "--manifest", office.manifest, "-c", "c", "--create")
    assert "the external id B-1 stands on lines 2, 4" in result.stderr
    assert "c holds 2 faces now" in result.stdout
    office.manifest.write_bytes(text.encode("latin-1"))
    assert "save it as 'CSV UTF-8'" in office.run("index", "--manifest", office.manifest, "-c", "c", code=2).stderr


def test_check_says_which_files_are_missing(office: Office) -> None:
    office.photograph("ada.png", 1)
    office.write("ada.png,,,,,,", "gone.png,,,,,,")
    result = office.run("index", "--manifest", office.manifest, "-c", "c", "--check", code=4)
    assert "line 3: gone.png: there is no such file" in result.stderr
    assert not (office.folder / "data").exists()


def test_other_peoples_files_are_not_overwritten(office: Office) -> None:
    office.photograph("ada.png", 1)
    office.photograph("none.png")
    office.write("ada.png,,,,,,", "none.png,,,,,,")
    theirs = office.folder / "people.failures.csv"
    theirs.write_text("mine\n")
    assert "is no list of failures" in office.run("index", "--manifest", office.manifest, "-c", "c", "--create", code=2).stderr
    assert theirs.read_text() == "mine\n"
    office.run("index", "--manifest", office.manifest, "--failures", office.manifest, "-c", "c", code=2)
    theirs.unlink()
    office.index()
    first = theirs.read_text()
    office.index()
    assert (office.folder / "people.failures.old.csv").read_text() == theirs.read_text() == first
    # A folder's list of failures has paths that hold from anywhere.
    office.run("index", office.folder / "none.png", "-c", "c", "--failures", office.folder / "list.csv", code=1)
    assert office.failures("list.csv")[0]["path"] == str(office.folder / "none.png")


def test_a_corrected_row_corrects_the_record_and_an_empty_cell_leaves_it(office: Office) -> None:
    office.photograph("ada.png", 1)
    office.write("ada.png,B-1,,2020-01-01,law,open,2099-01-01")
    office.index()
    office.write("ada.png,B-1,ada,,,closed,2098-01-01")
    assert office.index()[0]["status"] == "already_indexed"
    office.write("ada.png,B-1,bert,,,,")
    office.index()
    assert [one["reason"] for one in office.failures()] == ["other_subject"]
    with office.opened() as opened:
        collection = opened.collections.get("c")
        (row,) = opened.collections.face_page(collection, 0, 10)
        record = opened.collections.records(collection, [row.image_id])[row.image_id]
        assert (row.subject_id, record.taken_on, record.legal_basis) == ("ada", "2020-01-01", "law")
        assert (record.disposition, record.expires_on) == ("closed", "2098-01-01")
        assert [entry["type"] for entry in assert_ledger_whole(opened)][-2:] == ["subjects.enrolled", "records.changed"]


def test_a_record_goes_with_the_last_face(office: Office, make_server: Callable[..., Any]) -> None:
    server = make_server()
    client = server.client()
    office.environment["ABOVEBOARD_DATA"] = str(server.app.settings.data)
    office.photograph("two.png", 1, 2)
    office.write("two.png,B-1,,,law,,")
    office.index()
    faces = client.list_faces(CollectionId="c")["Faces"]
    collection, images = server.app.collections.get("c"), [faces[0]["ImageId"]]
    client.delete_faces(CollectionId="c", FaceIds=[faces[0]["FaceId"]])
    assert server.app.collections.records(collection, images)[images[0]].legal_basis == "law"
    client.delete_faces(CollectionId="c", FaceIds=[faces[1]["FaceId"]])
    assert not server.app.collections.records(collection, images)


def test_a_subject_has_a_hundred_faces_at_most(office: Office) -> None:
    for i in range(102):
        office.photograph(f"{i:03d}.png", i)
    office.write(*(f"{i:03d}.png,,ada,,,," for i in range(102)))
    assert office.index()[-1]["summary"]["faces"] == 100
    assert [(one["path"], one["reason"]) for one in office.failures()] == [("100.png", "subject_full"), ("101.png", "subject_full")]


def test_photographs_of_a_bucket(office: Office) -> None:
    """A prefix of a bucket, and rows of a manifest that name its objects; the record says where they lie."""
    bucket = office.folder / "bucket" / "2024"
    bucket.mkdir(parents=True)
    for i in (1, 2, 3):
        (bucket / f"{i}.png").write_bytes(picture(i))
    (bucket / "notes.txt").write_text("not a photograph")
    office.environment["ABOVEBOARD_BUCKETS"] = f'{{bookings = "{office.folder / "bucket"}"}}'
    *lines, last = documents(office.run("index", "s3://bookings/2024/", "-c", "c", "--create", "--json"))
    assert [one["external_image_id"] for one in lines] == ["2024:1.png", "2024:2.png", "2024:3.png"]
    assert (last["summary"]["new_faces"], last["summary"]["skipped"]) == (3, ["2024/notes.txt"])
    office.write("s3://bookings/2024/1.png,B-1,ada,,,,", "s3://bookings/2024/9.png,,,,,,", "s3://other/1.png,,,,,,")
    assert office.index()[-1]["summary"]["new_faces"] == 1
    assert [(one["path"], one["reason"]) for one in office.failures()] == [
        ("s3://bookings/2024/9.png", "missing"), ("s3://other/1.png", "missing"),
    ]  # fmt: skip
    with office.opened() as opened:
        collection = opened.collections.get("c")
        images = {row.external_image_id: row.image_id for row in opened.collections.face_page(collection, 0, 10)}
        assert opened.collections.records(collection, [images["B-1"]])[images["B-1"]].source == "s3://bookings/2024/1.png"
    office.run("index", "s3://bookings/none/", "-c", "c", code=2)
    office.run("index", "s3://other/", "-c", "c", code=4)


def test_killed_it_goes_on_where_it_was(office: Office) -> None:
    """SIGKILL in the middle: the next run enrols the rest, with no face twice and no subject twice."""
    many = 150
    for i in range(many):
        office.photograph(f"{i:03d}.png", i, size=400)
    office.write(*(f"{i:03d}.png,B-{i},person-{i // 2},,,," for i in range(many)))
    command = [sys.executable, "-m", "aboveboard", "index", "--manifest", str(office.manifest), "-c", "c", "--create", "--json"]
    process = subprocess.Popen(command, env={**os.environ, **office.environment}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    told = 1 + len(process.stdout.read().splitlines())
    process.wait(60)
    assert told < many
    summary = office.index()[-1]["summary"]
    assert summary["already_indexed"] >= told
    assert (summary["faces"], summary["already_indexed"] + summary["new_faces"]) == (many, many)
    with office.opened() as opened:
        rows = opened.collections.face_page(opened.collections.get("c"), 0, 1000)
        assert {row.external_image_id: row.subject_id for row in rows} == {f"B-{i}": f"person-{i // 2}" for i in range(many)}
        assert_ledger_whole(opened)


# --- collection check -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def gallery(office: Office) -> Office:
    """ada under two subjects, once with a copy; a stranger among bob's; carl alone."""
    for name, subject, take in (("a1", 1, 0), ("a2", 1, 1), ("b1", 2, 0), ("b2", 2, 2), ("x", 3, 0), ("c", 4, 0)):
        office.photograph(f"{name}.png", subject, take=take, variation=0.5 if take else 0.0)
    office.photograph("a1 small.png", 1, size=80)
    office.write(
        "a1.png,B-1,ada,,,,", "a2.png,B-2,aida,,,,", "b1.png,B-3,bob,,,,", "b2.png,B-4,bob,,,,", "x.png,B-5,bob,,,,",
        "c.png,B-6,carl,,,,", "a1 small.png,B-7,ada,,,,",
    )  # fmt: skip
    office.index()
    return office


def test_a_check_finds_copies_two_ids_and_strangers(gallery: Office) -> None:
    *rows, last = documents(gallery.run("collection", "check", "c", "--json"))
    found = {(row["finding"], *sorted(filter(None, (row["external_id"], row["other_external_id"])))) for row in rows}
    assert {("near_duplicate", "B-1", "B-7"), ("stranger", "B-5")} <= found
    assert {one for one in found if one[0] == "two_ids"} == {("two_ids", "B-1", "B-2"), ("two_ids", "B-2", "B-7")}
    assert {one for one in found if one[0] == "stranger"} == {("stranger", "B-5")}
    summary = last["summary"]
    assert (summary["comparisons"], summary["threshold"], summary["threshold_origin"], summary["subject_faces"]) == (21, 80, "default", 5)
    assert summary["expected_false"] == pytest.approx(21 * summary["fmr"])
    assert (summary["near_duplicates"], summary["under_two_ids"], summary["strangers"]) == (1, 2, 1)
    pair = next(row for row in rows if row["finding"] == "near_duplicate")
    assert {Path(pair["source"]).name, Path(pair["other_source"]).name} == {"a1.png", "a1 small.png"}
    with gallery.opened() as opened:
        intent, outcome = assert_ledger_whole(opened)[-2:]
    assert (intent["type"], intent["duty"], intent["threshold"]["value"]) == ("look.intent", "collection.check", 80)
    assert (outcome["type"], outcome["audit_id"], outcome["looked"]) == ("look.outcome", summary["audit_id"], True)
    assert (outcome["comparisons"], outcome["under_two_ids"], len(outcome["pairs"])) == (21, 2, 3)


def test_a_check_writes_a_new_file_and_says_where_nothing_is_found(gallery: Office) -> None:
    report = gallery.folder / "findings.csv"
    shown = gallery.run("collection", "check", "c", "--csv", report).stdout
    assert "copies" in shown
    assert "FMR" in shown
    with report.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert [row["finding"] for row in rows].count("two_ids") == 2
    assert "is there already" in gallery.run("collection", "check", "c", "--csv", report, code=2).stderr
    gallery.run("collection", "create", "empty")
    gallery.run("collection", "check", "empty", code=1)
    gallery.run("collection", "check", "absent", code=2)


def test_under_public_safety_a_check_obeys_floor_roles_and_review(gallery: Office) -> None:
    """99 at least, one person does not enrol and search, nobody is named, and each refusal is on record."""
    gallery.run("operator", "add", "clerk", "--role", "enroller")
    gallery.run("operator", "add", "detective", "--role", "investigator", "--operator", "first")
    with gallery.opened() as opened:
        opened_tags = opened.collections.get("c")
        with opened.database.write() as connection:
            opened.collections.set_tags(connection, opened_tags.n, {"aboveboard:policy": "public-safety"})
    check = ["collection", "check", "c", "--json", "--operator"]
    for operator, more, rule in (("first", [], "roles"), ("detective", [], "roles"), ("clerk", ["-t", "98"], "threshold.floor")):
        said = gallery.run(*check, operator, *more, code=3).stderr
        assert f"public-safety/{rule}" in said
    *rows, last = documents(gallery.run(*check, "clerk"))
    assert (last["summary"]["threshold"], last["summary"]["threshold_origin"], last["summary"]["subject_threshold"]) == (99, "policy", 99)
    assert last["summary"]["identities_withheld"]
    assert rows
    named = [row[f"{side}{key}"] for row in rows for side in ("", "other_") for key in ("external_id", "subject", "source")]
    assert set(named) == {"withheld until reviewed", ""}
    stranger = next(row for row in rows if row["finding"] == "stranger")
    assert stranger["similarity"] == ""
    with gallery.opened() as opened:
        refused = [entry for entry in assert_ledger_whole(opened) if entry["type"] == "refused"]
    assert [entry["duty"] for entry in refused] == ["collection.check"] * 3


def test_a_policy_made_stricter_during_a_check_holds_for_that_check(gallery: Office) -> None:
    """Tagged while pairs are compared: nothing is answered, and the record says that nobody was shown."""
    with gallery.opened() as opened:
        session = Session(opened.operators.all()[0], "test", "r")

        def tighten(done: int, total: int) -> None:
            if done == total:
                galleries.tag(opened, session, "c", {"aboveboard:policy": "public-safety"})

        with pytest.raises(Busy, match="policy was changed"):
            check.check(opened, session, "c", None, 100, tighten)
        outcome = assert_ledger_whole(opened)[-1]
        assert (outcome["type"], outcome["looked"]) == ("look.outcome", False)


def test_one_photograph_of_two_subjects_in_one_batch_is_the_firsts(office: Office) -> None:
    """The second is refused, by name of the reason, and keeps none."""
    office.photograph("a.png", 1)
    office.run("collection", "create", "c")
    with office.opened() as opened:
        session = Session(opened.operators.all()[0], "test", "r")
        collection = opened.collections.get("c")
        data = (office.folder / "a.png").read_bytes()
        prepared = [enrol.prepare(opened, collection, data, enrol.Label("e", subject), 100, "AUTO", known=()) for subject in ("ann", "bob")]
        first, second = enrol.store(opened, session, "c", prepared)
        assert (first.refused, second.refused) == (None, "other_subject")
        (row,) = opened.collections.face_page(collection, 0, 10)
        assert row.subject_id == "ann"
