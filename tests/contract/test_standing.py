"""Certificates and suspensions over the wire and from the command line: a server, and verbs on the same data folder."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.exceptions import ClientError
from kit import Server, assert_ledger_whole, picture
from typer.testing import CliRunner, Result

from aboveboard.accountability import gate, looks
from aboveboard.accountability.operators import AccessKey
from aboveboard.cli import app as program

STRICT = {"default_policy": "public-safety"}


def verb(data: Any, *arguments: object, code: int = 0) -> Result:
    """A verb on a deployment's folder, in this process."""
    environment = {"ABOVEBOARD_PACK": "null", "ABOVEBOARD_DATA": str(data), "COLUMNS": "200", "ABOVEBOARD_DEFAULT_POLICY": "public-safety"}
    result = CliRunner().invoke(program, [str(one) for one in arguments], env=environment)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def documents(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


class Office:
    """A strict deployment: two admins, an auditor, an enroller, a detective of a unit, with a gallery of three."""

    def __init__(self, server: Server) -> None:
        self.server, self.data = server, server.app.settings.data
        add = server.app.operators.add
        pack = server.app.gate.policies.get("public-safety")
        self.keys: dict[str, AccessKey] = {"first": server.key}
        for name, role, unit in (
            ("second", "admin", ""), ("auditor", "auditor", ""), ("records", "enroller", ""), ("dana", "investigator", "robbery-squad"),
        ):  # fmt: skip
            self.keys[name] = add(name, (role,), "test", pack, (), unit)
        server.app.cases.open("24-1", "suspect", "dana", {"operator": "dana"}, offence="robbery")
        self.keys["dana"] = server.case_key("24-1")
        server.client().create_collection(CollectionId="arrests")
        for subject in range(3):
            self.enrol(subject)

    def client(self, name: str) -> Any:
        return self.server.client(self.keys[name])

    def enrol(self, subject: int, collection: str = "arrests") -> str:
        answer = self.client("records").index_faces(CollectionId=collection, Image={"Bytes": picture(subject)})
        return answer["FaceRecords"][0]["Face"]["FaceId"]

    def search(self, collection: str = "arrests") -> list[str]:
        answer = self.client("dana").search_faces_by_image(CollectionId=collection, Image={"Bytes": picture(1)})
        return [match["Face"]["FaceId"] for match in answer["FaceMatches"]]

    def verb(self, *arguments: object, by: str = "first", code: int = 0) -> Result:
        return verb(self.data, *arguments, "--operator", by, code=code)

    def suspend(self, *what: str, by: str = "first") -> int:
        return documents(self.verb("suspension", "make", *what, "--because", "a complaint", "--json", by=by))[0]["n"]

    def certify(self, until: str = "2999-01-01", score: float = 0.9) -> None:
        self.verb("operator", "certify", "dana", "--examiner", "state-academy", "--score", score, "--until", until)


def refused(rule: str, call: Callable[[], Any], server: Server | None = None) -> dict[str, Any]:
    """The call is refused by this rule, on record where a server is given; that entry."""
    before = server.entry_count() if server else 0
    with pytest.raises(ClientError, match=f"Refused by rule {rule}:") as told:
        call()
    assert told.value.response["Error"]["Code"] == "AccessDeniedException"
    if server is None:
        return {}
    entry = server.entries(before)[0]
    assert (entry["type"], entry["rule"]) == ("refused", rule)
    return entry


@pytest.fixture
def office(make_server: Callable[..., Server]) -> Office:
    return Office(make_server(**STRICT))


@pytest.fixture
def certified(office: Office) -> Office:
    office.certify()
    return office


CERTIFICATE = "public-safety/certificate"


def test_a_strict_pack_asks_for_a_certificate_that_holds(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """None; certified: works, CompareFaces too; after its end none again; ended by an admin; older than the pack allows."""
    entry = refused(CERTIFICATE, office.search, office.server)
    assert "certificate" not in entry["asked"]
    office.certify("2030-01-01")
    assert len(office.search()) == 1
    face = {"Bytes": picture(1)}
    assert office.client("dana").compare_faces(SourceImage=face, TargetImage=face)["FaceMatches"]
    office.certify("2027-03-01", 0.8)  # the newest counts, though an older one lasts longer
    for at, works in (("2027-02-28T23:59:59.999Z", True), ("2027-03-01T00:00:00.000Z", False)):
        monkeypatch.setattr(gate, "now", lambda at=at: at)
        case = office.server.app.cases.get("24-1")
        if case.expires_at <= at:
            office.server.app.cases.open(f"case {at}", "suspect", "dana", {"operator": "dana"}, offence="robbery", until="2998-01-01")
            office.keys["dana"] = office.server.case_key(f"case {at}")
        if works:
            assert len(office.search()) == 1
        else:
            entry = refused(CERTIFICATE, office.search, office.server)
            assert entry["asked"]["certificate"]["until"] == "2027-03-01"
            assert entry["asked"]["certificate"]["score"] == 0.8
    office.certify("2998-01-01")
    monkeypatch.setattr(gate, "now", lambda: "2035-01-01T00:00:00.000Z")
    refused(CERTIFICATE, office.search, office.server)  # public-safety: a year, whatever the certificate says
    monkeypatch.undo()
    assert len(office.search()) == 1
    office.verb("operator", "uncertify", "dana", by="second")
    refused(CERTIFICATE, office.search, office.server)
    kinds = [entry["type"] for entry in office.server.entries() if entry["type"].startswith("operator.") and entry["operator"] == "dana"]
    assert kinds == ["operator.added", *["operator.certified"] * 3, "operator.uncertified"]


def test_a_pack_may_ask_for_a_score(tmp_path: Any, make_server: Callable[..., Server]) -> None:
    """An overlay with a least score refuses the certificate below it, and names both."""
    (tmp_path / "packs").mkdir()
    text = 'extends = "public-safety"\nid = "county"\nversion = "1"\n[certificate]\nleast_score = 0.95\n'
    (tmp_path / "packs" / "county.toml").write_text(text)
    office = Office(make_server(default_policy="county", policies=str(tmp_path / "packs")))
    office.server.app.standing.certify("dana", "state-academy", 0.94, "2999-01-01", "first")
    with pytest.raises(ClientError, match=r"county/certificate: .*0\.94, less than 0\.95"):
        office.search()
    office.server.app.standing.certify("dana", "state-academy", 0.95, "2999-01-01", "first")
    assert len(office.search()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nobody", "--examiner", "x", "--score", "1", "--until", "2999-01-01"), "no operator 'nobody'"),
        (("dana", "--examiner", "x", "--score", "1.1", "--until", "2999-01-01"), "score"),
        (("dana", "--examiner", "x", "--score", "nan", "--until", "2999-01-01"), "score"),
        (("dana", "--examiner", "x", "--score", "1", "--until", "2999-13-01"), "2027-06-30"),
        (("dana", "--examiner", "x", "--score", "1", "--until", "2020-01-01"), "ended before it began"),
        (("dana", "--examiner", "dana", "--score", "1", "--until", "2999-01-01"), "nobody examines himself"),
        (("dana", "--examiner", "Dr. Jane Doe", "--score", "1", "--until", "2999-01-01"), "as the ledger may show him"),
        (("first", "--examiner", "x", "--score", "1", "--until", "2999-01-01"), "enters his own certificate"),
    ],
)
def test_a_certificate_that_cannot_be_is_refused(office: Office, arguments: tuple[str, ...], says: str) -> None:
    """Bad names, scores and dates; one's own. Nothing is written."""
    before = office.server.entry_count()
    assert says in office.verb("operator", "certify", *arguments, code=2).stderr
    assert office.server.entry_count() == before
    assert office.server.app.standing.certificates() == {}


def test_only_an_admin_certifies(office: Office) -> None:
    """An investigator cannot, by the role; on record."""
    told = office.verb("operator", "certify", "records", "--examiner", "x", "--score", 1, "--until", "2999-01-01", by="dana", code=3)
    assert "public-safety/roles" in told.stderr
    assert office.server.entries()[-1]["duty"] == "operator.certify"


SUSPENDED = "public-safety/suspended"


@pytest.mark.parametrize("what", [("operator", "dana"), ("unit", "robbery-squad"), ("collection", "arrests"), ("system",)], ids=" ".join)
def test_a_suspension_bites_on_the_next_request(certified: Office, what: tuple[str, ...]) -> None:
    """Made by a verb on a running server's folder: the next search is refused, on record; lifted by two, it works again."""
    assert len(certified.search()) == 1
    before = certified.server.entry_count()
    n = certified.suspend(*what)
    (made,) = certified.server.entries(before)
    assert (made["type"], made["scope"], made["by"], made["because"]) == ("suspension.made", what[0], "first", "by hand")
    assert made["target"] == "".join(what[1:])
    assert refused(SUSPENDED, certified.search, certified.server)["asked"]["suspended"]
    # Enrolment too, of all that is suspended; reading and deleting go on.
    if what[0] in ("collection", "system"):
        refused(SUSPENDED, lambda: certified.enrol(7), certified.server)
    else:
        assert certified.enrol(7)
    face = certified.client("dana").list_faces(CollectionId="arrests")["Faces"][0]["FaceId"]
    assert certified.client("records").delete_faces(CollectionId="arrests", FaceIds=[face])["DeletedFaces"] == [face]
    assert certified.client("dana").detect_faces(Image={"Bytes": picture(1)})["FaceDetails"]
    asked = documents(certified.verb("suspension", "lift", n, "--json"))[0]
    assert (asked["lift_asked_by"], asked["lifted_at"]) == ("first", None)
    refused(SUSPENDED, certified.search)
    told = certified.verb("suspension", "lift", n, code=3)
    assert "suspension/second-person" in told.stderr
    refused(SUSPENDED, certified.search)
    lifted = documents(certified.verb("suspension", "lift", n, "--json", by="auditor"))[0]
    assert (lifted["lift_asked_by"], lifted["lifted_by"]) == ("first", "auditor")
    assert len(certified.search()) == 1
    kinds = [entry["type"] for entry in certified.server.entries() if entry["type"].startswith("suspension")]
    assert kinds == ["suspension.made", "suspension.lift.asked", "suspension.lifted"]
    assert_ledger_whole(certified.server.app)


def test_a_suspended_enroller_writes_nothing(certified: Office) -> None:
    """IndexFaces, CreateUser and AssociateFaces are refused; what he removes is gone."""
    records = certified.client("records")
    face = certified.enrol(8)
    records.create_user(CollectionId="arrests", UserId="u")
    certified.suspend("operator", "records")
    refused(SUSPENDED, lambda: certified.enrol(9), certified.server)
    refused(SUSPENDED, lambda: records.create_user(CollectionId="arrests", UserId="v"), certified.server)
    refused(SUSPENDED, lambda: records.associate_faces(CollectionId="arrests", UserId="u", FaceIds=[face]), certified.server)
    assert records.delete_faces(CollectionId="arrests", FaceIds=[face])["DeletedFaces"] == [face]
    records.delete_user(CollectionId="arrests", UserId="u")
    assert len(certified.search()) == 1  # nobody else is


def test_who_is_suspended_gives_himself_no_way_back(certified: Office) -> None:
    """A suspended admin neither lifts, nor makes operators, keys, certificates or suspensions; while the system is, others do."""
    own = certified.suspend("operator", "second", by="auditor")
    other = certified.suspend("unit", "robbery-squad")
    for arguments in (
        ("suspension", "lift", own), ("suspension", "lift", other), ("suspension", "make", "operator", "first", "--because", "revenge"),
        ("operator", "add", "puppet", "--role", "admin"), ("operator", "rotate", "auditor"), ("operator", "revoke", "first"),
        ("operator", "certify", "records", "--examiner", "x", "--score", 1, "--until", "2999-01-01"),
    ):  # fmt: skip
        assert SUSPENDED in certified.verb(*arguments, by="second", code=3).stderr
    assert certified.verb("suspension", "list", by="second").stdout.count("operator second") == 1
    certified.suspend("system")
    certified.verb("operator", "add", "third", "--role", "admin")
    assert "two others" in certified.verb("suspension", "lift", own, by="second", code=3).stderr
    # Who asked, and is suspended since, is no second person.
    certified.verb("suspension", "lift", other, by="third")
    certified.suspend("operator", "third")
    assert documents(certified.verb("suspension", "lift", other, "--json"))[0]["lifted_at"] is None
    assert documents(certified.verb("suspension", "lift", other, "--json", by="auditor"))[0]["lifted_at"]


def test_a_collection_of_the_same_name_is_another(certified: Office) -> None:
    """What is suspended is the gallery, not its name."""
    certified.suspend("collection", "arrests")
    certified.server.client().delete_collection(CollectionId="arrests")
    certified.server.client().create_collection(CollectionId="arrests")
    certified.enrol(1)
    assert len(certified.search()) == 1
    (listed,) = documents(certified.verb("suspension", "list", "--json"))
    assert listed["target"] == "number 1, deleted"
    certified.suspend("collection", "arrests")
    refused(SUSPENDED, certified.search)


@pytest.mark.parametrize(
    ("what", "says", "code"),
    [
        (("operator", "nobody"), "no operator", 2), (("unit", "nowhere"), "no unit", 2), (("collection", "nothing"), "no collection", 2),
        (("operator",), "name the operator", 2), (("unit", ""), "name the unit", 2), (("system", "x"), "no name", 2),
        (("planet", "x"), "cannot be suspended", 2), (("collection", "records"), "no collection", 2),
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_suspended(office: Office, what: tuple[str, ...], says: str, code: int) -> None:
    """A wrong name is told, and leaves no suspension."""
    assert says in office.verb("suspension", "make", *what, "--because", "x", code=code).stderr
    assert documents(office.verb("suspension", "list", "--json")) == []


def test_a_suspension_leaves_somebody_who_can_lift_it(office: Office) -> None:
    """The last admin who is not suspended stays; nothing is suspended twice; an empty reason is none."""
    office.suspend("operator", "second")
    assert "no admin would be left" in office.verb("suspension", "make", "operator", "first", "--because", "x", code=2).stderr
    assert "already" in office.verb("suspension", "make", "operator", "second", "--because", "x", code=2).stderr
    assert "say why" in office.verb("suspension", "make", "unit", "robbery-squad", "--because", " ", code=2).stderr
    assert "no suspension 9" in office.verb("suspension", "lift", 9, code=2).stderr
    assert [one["target"] for one in documents(office.verb("suspension", "list", "--json"))] == ["second"]


def test_the_lists_say_how_people_stand(certified: Office) -> None:
    """operator list: unit, certificate, suspension; suspension list: who, why, who asks."""
    n = certified.suspend("unit", "robbery-squad")
    certified.verb("suspension", "lift", n, by="auditor")
    people = {one["operator"]: one for one in documents(certified.verb("operator", "list", "--json"))}
    assert people["dana"]["unit"] == "robbery-squad"
    assert (people["dana"]["certificate"]["until"], people["dana"]["certificate"]["score"]) == ("2999-01-01", 0.9)
    assert people["dana"]["suspended"] == "the unit 'robbery-squad'"
    assert (people["records"]["certificate"], people["records"]["suspended"]) == (None, "")
    page = certified.verb("operator", "list").stdout
    assert "until 2999-01-01, 0.9" in page
    assert page.count("suspended") == 1
    page = certified.verb("suspension", "list", by="dana").stdout
    assert "the unit robbery-squad" in page
    assert "a complaint" in page
    assert "auditor asks for it" in page


# --- looks under way -----------------------------------------------------------------------------------------------------------


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Looks stop once their intent is on the disk: an event that says so, and one that lets them go on."""
    reached, go_on, wait = threading.Event(), threading.Event(), looks.Look.wait_for_intent

    def waiting(look: looks.Look) -> int:
        intent = wait(look)
        reached.set()
        assert go_on.wait(60)
        return intent

    monkeypatch.setattr(looks.Look, "wait_for_intent", waiting)
    try:
        yield reached, go_on
    finally:
        go_on.set()


@pytest.mark.parametrize("what", [("operator", "dana"), ("unit", "robbery-squad"), ("collection", "arrests"), ("system",)], ids=" ".join)
def test_a_look_under_way_is_withheld(certified: Office, monkeypatch: pytest.MonkeyPatch, what: tuple[str, ...]) -> None:
    """Suspended after its intent and before its answer: nothing is answered; the outcome says by which rule, and no candidate."""
    before, told = certified.server.entry_count(), []

    def search() -> None:
        try:
            told.append(certified.search())
        except ClientError as error:
            told.append(error.response["Error"])

    with held(monkeypatch) as (reached, go_on):
        thread = threading.Thread(target=search)
        thread.start()
        assert reached.wait(60)
        certified.suspend(*what)
        go_on.set()
        thread.join(60)
    assert [error["Code"] for error in told] == ["AccessDeniedException"]
    assert SUSPENDED in told[0]["Message"]
    intent, made, outcome = certified.server.entries(before)
    assert [intent["type"], made["type"], outcome["type"]] == ["look.intent", "suspension.made", "look.outcome"]
    assert (outcome["audit_id"], outcome["intent"]) == (intent["audit_id"], intent["seq"])
    assert (outcome["looked"], outcome["withheld"]) == (True, SUSPENDED)
    assert not {"candidates", "below_threshold", "gallery_size"} & set(outcome)
    case = certified.server.app.cases.get("24-1")
    assert intent["audit_id"] in [one.audit_id for one in certified.server.app.cases.looks(case)]
    assert intent["audit_id"] not in certified.server.app.cases.leads(case)


def test_comparisons_and_checks_under_way_are_withheld(certified: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """CompareFaces and a check of the gallery: neither answers; the case counts what was compared."""
    face = {"Bytes": picture(1)}
    with held(monkeypatch) as (reached, go_on):
        told: list[str] = []

        def compare() -> None:
            try:
                certified.client("dana").compare_faces(SourceImage=face, TargetImage=face)
            except ClientError as error:
                told.append(error.response["Error"]["Message"])

        thread = threading.Thread(target=compare)
        thread.start()
        assert reached.wait(60)
        certified.suspend("system")
        go_on.set()
        thread.join(60)
    assert len(told) == 1
    assert SUSPENDED in told[0]
    assert certified.server.app.cases.get("24-1").comparisons == 1
    assert certified.server.entries()[-1]["withheld"] == SUSPENDED
    assert SUSPENDED in certified.verb("collection", "check", "arrests", by="records", code=3).stderr
