"""The locks against an unaudited score, derived from the model: which operations answer a similarity, and which take a threshold."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from botocore.model import Shape
from judge import model, operation
from kit import assert_ledger_whole, b64, basis, picture

from aboveboard.accountability import looks as gates_looks
from aboveboard.biometrics.calibration import Calibration
from aboveboard.errors import Unavailable
from aboveboard.rekognition.operations import offered
from aboveboard.storage import templates
from aboveboard.storage.schema import COMMITMENT_KEYS

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def has(shape: Shape | None, member: str, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a member of this name lies anywhere in a shape."""
    if shape is None or shape.name in seen:
        return False
    seen |= {shape.name}
    if shape.type_name == "structure":
        return member in shape.members or any(has(inner, member, seen) for inner in shape.members.values())
    return shape.type_name == "list" and has(shape.member, member, seen)


def threshold_of(name: str) -> str | None:
    """The match threshold among an operation's members."""
    shape = operation(name).input_shape
    found = [member for member in (shape.members if shape else ()) if re.fullmatch(r"(Similarity|FaceMatch|UserMatch)Threshold", member)]
    return found[0] if found else None


ANSWER_SIMILARITY = sorted(name for name in model().operation_names if has(operation(name).output_shape, "Similarity"))
TAKE_THRESHOLD = sorted(name for name in model().operation_names if threshold_of(name))
SCORING = sorted(set(ANSWER_SIMILARITY) | set(TAKE_THRESHOLD))
OFFERED = sorted(set(SCORING) & set(offered()))


def test_the_model_says_which_operations_score():
    """Six answer `Similarity`, seven take a match threshold; a new botocore that adds one comes under these tests by itself."""
    assert ANSWER_SIMILARITY == ["CompareFaces", "GetFaceSearch", "SearchFaces", "SearchFacesByImage", "SearchUsers", "SearchUsersByImage"]
    assert TAKE_THRESHOLD == [
        "AssociateFaces", "CompareFaces", "SearchFaces", "SearchFacesByImage", "SearchUsers", "SearchUsersByImage", "StartFaceSearch",
    ]  # fmt: skip
    assert OFFERED == ["AssociateFaces", "CompareFaces", "SearchFaces", "SearchFacesByImage", "SearchUsers", "SearchUsersByImage"]


@pytest.mark.parametrize("name", sorted(set(SCORING) - set(OFFERED)))
def test_a_scoring_operation_that_is_not_offered_answers_no_score(server, name):
    """It is refused whole."""
    assert server.post(name, {}).code == "AccessDeniedException"


@pytest.fixture(scope="module")
def faces(rekognition):
    """A gallery whose first face has a second photograph and is a user's."""
    rekognition.create_collection(CollectionId="locked")
    found = []
    for take, person in enumerate((1, 1, 2, 3)):
        answer = rekognition.index_faces(CollectionId="locked", Image={"Bytes": picture(person, take=take, variation=0.1)})
        found.append(answer["FaceRecords"][0]["Face"]["FaceId"])
    rekognition.create_user(CollectionId="locked", UserId="one")
    rekognition.associate_faces(CollectionId="locked", UserId="one", FaceIds=found[:1])
    return found


def scoring_request(name, faces, **members):
    image = {"Bytes": b64(picture(1))}
    return {
        # A face that is not like the user's: it is told how unlike, and the next request finds everything as it was.
        "AssociateFaces": {"CollectionId": "locked", "UserId": "one", "FaceIds": [faces[-1]]},
        "CompareFaces": {"SourceImage": image, "TargetImage": image},
        "SearchFaces": {"CollectionId": "locked", "FaceId": faces[0]},
        "SearchFacesByImage": {"CollectionId": "locked", "Image": image},
        "SearchUsers": {"CollectionId": "locked", "FaceId": faces[1 % len(faces)]},
        "SearchUsersByImage": {"CollectionId": "locked", "Image": image},
    }[name] | members


def similarities(document):
    """Every similarity of an answer; AssociateFaces calls it Confidence."""
    found = [match["Similarity"] for key in ("FaceMatches", "UserMatches") for match in document.get(key, [])]
    return found + [failure["Confidence"] for failure in document.get("UnsuccessfulFaceAssociations", [])]


@pytest.fixture
def looks(monkeypatch):
    """Counts every place where templates are compared."""
    counted = []

    def spy(owner, name):
        real = getattr(owner, name)

        def counting(*args, **kwargs):
            counted.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    spy(templates.Templates, "search")
    spy(templates.Templates, "search_subjects")
    spy(templates.Templates, "of_faces")
    spy(gates_looks, "comparison_scores")
    spy(templates, "comparison_scores")
    return counted


@pytest.mark.parametrize("name", OFFERED)
class TestEachScoringOperation:
    """Every offered operation that answers a similarity."""

    def test_the_ledger_grows_by_an_intent_and_its_outcome(self, server, faces, looks, name):
        """Two entries under one audit id, the intent before the outcome; the id is in the answer's header; a look did happen."""
        before = server.entry_count()
        reply = server.post(name, scoring_request(name, faces))
        assert similarities(reply.json)
        intent, outcome = server.entries(before)
        assert (intent["type"], outcome["type"]) == ("look.intent", "look.outcome")
        audit_id = reply.headers["x-aboveboard-audit-id"]
        assert intent["audit_id"] == outcome["audit_id"] == audit_id
        assert outcome["intent"] == intent["seq"]
        assert outcome["looked"] is True
        recorded = outcome["below_threshold" if name == "AssociateFaces" else "candidates"]
        assert [one["similarity"] for one in recorded] == similarities(reply.json)
        assert looks

    def test_the_intent_is_on_the_disk_before_the_look(self, server, faces, monkeypatch, name):
        """While templates are compared, another connection already reads the intent."""
        seen = []

        def watch(owner, attribute):
            real = getattr(owner, attribute)

            def watching(*args, **kwargs):
                seen.append(server.entries()[-1]["type"])
                return real(*args, **kwargs)

            monkeypatch.setattr(owner, attribute, watching)

        for method in ("search", "search_subjects", "of_faces"):
            watch(server.app.gate._templates, method)
        watch(gates_looks, "comparison_scores")
        assert server.post(name, scoring_request(name, faces)).status == 200
        assert seen
        assert set(seen) == {"look.intent"}

    @pytest.mark.parametrize("broken", ["record", "append"])
    def test_with_the_ledger_down_there_is_no_score_and_no_look(self, server, faces, looks, monkeypatch, name, broken):
        """InternalServerError, zero looks, nothing of a candidate in the answer; afterwards it works again."""

        def down(*_args, **_kwargs):
            raise Unavailable("the ledger does not answer")

        with monkeypatch.context() as patch:
            patch.setattr(server.app.ledger, broken, down)
            reply = server.post(name, scoring_request(name, faces))
        assert (reply.status, reply.code) == (500, "InternalServerError")
        assert b"Similarity" not in reply.body
        assert looks == []
        assert server.post(name, scoring_request(name, faces)).status == 200

    def test_with_the_outcome_unwritten_there_is_no_score(self, server, faces, monkeypatch, name):
        """The intent is there, the outcome cannot be: the answer is InternalServerError, and the record shows a look without outcome."""
        real = server.app.ledger.record

        def only_intents(kind, *args, **kwargs):
            if kind != "look.intent":
                raise Unavailable("the disk is full")
            return real(kind, *args, **kwargs)

        before = server.entry_count()
        with monkeypatch.context() as patch:
            patch.setattr(server.app.ledger, "record", only_intents)
            reply = server.post(name, scoring_request(name, faces))
        assert (reply.status, reply.code) == (500, "InternalServerError")
        assert b"Similarity" not in reply.body
        assert [entry["type"] for entry in server.entries(before)] == ["look.intent"]

    def test_below_the_floor_is_refused_and_recorded(self, strict_server, looks, name):
        """Under public-safety a threshold below 99 is AccessDenied, naming the rule and how to comply; on record; no look."""
        key = strict_server.operator(f"floor-{name}", "enroller") if name == "AssociateFaces" else strict_server.detective(f"floor-{name}")
        enroller = strict_server.operator(f"enroller-{name}", "enroller")
        for threshold, rule in (
            (98.99, "public-safety/threshold.floor"),
            (80, "public-safety/threshold.floor"),
            (0, "public-safety/threshold.none"),
        ):
            request = scoring_request(name, [UNKNOWN], **{threshold_of(name): threshold})
            if "CollectionId" in request:
                request["CollectionId"] = strict_collection(strict_server, enroller)
            before = strict_server.entry_count()
            reply = strict_server.post(name, request, key)
            assert reply.code == "AccessDeniedException"
            assert rule in reply.message
            assert "send 99 or more" in reply.message
            (refused,) = strict_server.entries(before)
            assert (refused["type"], refused["rule"], refused["threshold"]) == ("refused", rule, threshold)
            assert refused["operator"] == f"floor-{name}"
        assert looks == []

    def test_a_search_that_finds_nothing_to_compare_is_recorded_as_such(self, server, faces, looks, name):
        """No face in the image, or an unknown face: intent, and an outcome that says that nobody was looked up."""
        request = scoring_request(name, faces)
        if name in ("SearchFaces", "SearchUsers"):
            request["FaceId"] = UNKNOWN
        elif name == "AssociateFaces":
            request["FaceIds"] = [UNKNOWN]
        else:
            request["TargetImage" if name == "CompareFaces" else "Image"] = {"Bytes": b64(picture())}
        before = server.entry_count()
        # Two operations answer that with an empty list, as Amazon does.
        assert server.post(name, request).code == ("" if name in ("AssociateFaces", "SearchUsersByImage") else "InvalidParameterException")
        intent, outcome = server.entries(before)
        assert (intent["type"], outcome["type"], outcome["looked"]) == ("look.intent", "look.outcome", False)
        assert outcome["intent"] == intent["seq"]
        assert looks == []

    def test_the_intent_says_who_under_which_rules_with_which_models(self, server, faces, name):
        """Operator, access key, request ids, policy and its hash, threshold and origin, model and calibration: enough to do it again."""
        before = server.entry_count()
        headers = {"amz-sdk-invocation-id": "0f0f0f0f-1111-4222-8333-444444444444"}
        reply = server.post(name, scoring_request(name, faces, **{threshold_of(name): 91.5}), headers=headers)
        intent = server.entries(before)[0]
        assert intent["operator"] == "first"
        assert intent["via"] == server.key.id
        assert intent["request_id"] == reply.headers["x-amzn-requestid"]
        assert intent["invocation_id"] == headers["amz-sdk-invocation-id"]
        assert intent["policy"]["id"] == "general"
        assert re.fullmatch("[0-9a-f]{64}", intent["policy"]["sha256"])
        assert intent["threshold"] == {"value": 91.5, "origin": "request", "floor": 0}
        assert (intent["model"]["pack"], intent["model"]["version"]) == ("null", "0.1")
        calibration: Calibration = server.app.models.calibration
        assert intent["calibration"] == {"id": calibration.id, "sha256": calibration.sha256}
        assert server.key.secret not in str(intent)

    def test_many_at_once_each_have_their_own_pair(self, server, faces, name):
        """Twenty concurrent requests: twenty pairs, each header's audit id among them once, and the ledger is whole."""
        before = server.entry_count()
        barrier = threading.Barrier(5)

        def ask(i):
            if i < 5:
                barrier.wait()
            return server.post(name, scoring_request(name, faces)).headers["x-aboveboard-audit-id"]

        with ThreadPoolExecutor(5) as pool:
            audit_ids = list(pool.map(ask, range(20)))
        entries = server.entries(before)
        for kind in ("look.intent", "look.outcome"):
            assert sorted(entry["audit_id"] for entry in entries if entry["type"] == kind) == sorted(audit_ids)
        assert len(set(audit_ids)) == 20
        assert_ledger_whole(server.app)


def strict_collection(strict_server, enroller):
    strict_server.post("CreateCollection", {"CollectionId": "strict"})
    strict_server.post("CreateUser", {"CollectionId": "strict", "UserId": "one"}, enroller)
    return "strict"


def test_the_image_is_committed_to_and_not_kept(server, faces):
    """The intent holds an HMAC of the image under a key of its own, kept beside the log: checkable with the key, and no plain hash."""
    image = picture(1)
    before = server.entry_count()
    server.post("SearchFacesByImage", scoring_request("SearchFacesByImage", faces))
    server.post("SearchFacesByImage", scoring_request("SearchFacesByImage", faces))
    first, _, second, _ = server.entries(before)
    assert first["probe"] != second["probe"]
    assert hashlib.sha256(image).hexdigest() not in str(first)
    assert first["probe"]["commitments"] == [committed(server, first["audit_id"], "probe 1", image)]


def committed(server, audit_id, part, value):
    """HMAC-SHA256 under the part's key, which is HMAC-SHA256 of its name under the look's own, kept beside the log."""
    with server.app.database.read() as connection:
        key = connection.execute(sa.select(COMMITMENT_KEYS.c.key).where(COMMITMENT_KEYS.c.audit_id == audit_id)).scalar()
    return hmac.new(hmac.digest(key, part.encode(), "sha256"), value, hashlib.sha256).hexdigest()


def test_the_outcome_commits_to_candidates_and_names_none(server, rekognition, collection):
    """Similarities and error rates are recorded, and commitments of face ids; no id, no name, no score that was not answered."""
    rekognition.index_faces(CollectionId=collection, Image={"Bytes": picture(1)}, ExternalImageId="a-persons-name")
    rekognition.index_faces(CollectionId=collection, Image={"Bytes": picture(2)}, ExternalImageId="another-name")
    before = server.entry_count()
    answer = rekognition.search_faces_by_image(CollectionId=collection, Image={"Bytes": picture(1)})
    _, outcome = server.entries(before)
    (match,) = answer["FaceMatches"]
    face_id = match["Face"]["FaceId"]
    commitment = committed(server, outcome["audit_id"], "candidate 1", face_id.encode())
    assert outcome["candidates"] == [{"commitment": commitment, "similarity": match["Similarity"]}]
    assert face_id not in str(outcome)
    assert outcome["gallery_size"] == 2 == int(basis(answer)["gallery-size"])
    assert outcome["fmr"] == pytest.approx(float(basis(answer)["fmr"]), rel=0.01)
    assert "name" not in str(outcome)


def test_without_a_calibration_no_similarity_is_answered(own_server, monkeypatch):
    """A pack without calibration detects and indexes, but answers no score: refused in words, on record."""
    client = own_server.client()
    client.create_collection(CollectionId="a")
    face = client.index_faces(CollectionId="a", Image={"Bytes": picture(1)})["FaceRecords"][0]["Face"]["FaceId"]
    bare = dataclasses.replace(own_server.app.models, calibration=None)
    object.__setattr__(own_server.app, "models", bare)
    monkeypatch.setattr(own_server.app.gate, "_models", bare)
    for name, request in (
        ("SearchFaces", {"CollectionId": "a", "FaceId": face}),
        ("SearchFacesByImage", {"CollectionId": "a", "Image": {"Bytes": b64(picture(1))}}),
        ("CompareFaces", {"SourceImage": {"Bytes": b64(picture(1))}, "TargetImage": {"Bytes": b64(picture(1))}}),
    ):
        before = own_server.entry_count()
        reply = own_server.post(name, request)
        assert reply.code == "AccessDeniedException"
        assert "has no calibration" in reply.message
        (refused,) = own_server.entries(before)
        assert refused["rule"] == "calibration"
    assert len(client.detect_faces(Image={"Bytes": picture(1)})["FaceDetails"]) == 1
