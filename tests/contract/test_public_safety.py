"""The policy pack `public-safety` over the wire: floor 99, no search without a threshold, roles apart, identities withheld."""

from __future__ import annotations

import itertools

import pytest
from kit import basis, canvas, encoded, picture

SEPARATE = [("admin", "investigator"), ("admin", "reviewer"), ("enroller", "investigator"), ("investigator", "reviewer")]


@pytest.fixture(scope="module")
def investigator(strict_server):
    return strict_server.client(strict_server.detective("detective"))


@pytest.fixture(scope="module")
def enroller(strict_server):
    return strict_server.client(strict_server.operator("records-office", "enroller"))


@pytest.fixture(scope="module")
def gallery(strict_server, enroller):
    """Faces of a strict collection by external id."""
    strict_server.client().create_collection(CollectionId="arrests")
    faces = {}
    for i in range(6):
        answer = enroller.index_faces(CollectionId="arrests", Image={"Bytes": picture(i)}, ExternalImageId=f"name-{i}")
        faces[f"name-{i}"] = answer["FaceRecords"][0]["Face"]
    return faces


def test_the_first_operator_is_admin_alone(strict_server, gallery):
    """A strict pack keeps roles apart from the first start: who sets the rules neither fills the gallery nor searches it."""
    client = strict_server.client()
    for call in (
        lambda: client.index_faces(CollectionId="arrests", Image={"Bytes": picture(1)}),
        lambda: client.search_faces_by_image(CollectionId="arrests", Image={"Bytes": picture(1)}),
    ):
        with pytest.raises(client.exceptions.AccessDeniedException, match="public-safety/roles"):
            call()


def test_an_absent_threshold_means_99_by_policy(investigator, gallery):
    """Origin `policy`, floor 99, in the headers of all three operations."""
    for answer in (
        investigator.search_faces_by_image(CollectionId="arrests", Image={"Bytes": picture(1)}),
        investigator.search_faces(CollectionId="arrests", FaceId=gallery["name-1"]["FaceId"]),
        investigator.compare_faces(SourceImage={"Bytes": picture(1)}, TargetImage={"Bytes": picture(1, 2)}),
    ):
        shown = basis(answer)
        assert (shown["policy"], shown["threshold"], shown["threshold-origin"], shown["floor"]) == ("public-safety", "99", "policy", "99")


@pytest.mark.parametrize("threshold", [99, 99.5, 100])
def test_a_threshold_at_or_above_the_floor_is_taken_as_asked(investigator, gallery, threshold):
    """Never raised, never lowered."""
    shown = basis(investigator.search_faces_by_image(CollectionId="arrests", Image={"Bytes": picture(1)}, FaceMatchThreshold=threshold))
    assert (float(shown["threshold"]), shown["threshold-origin"]) == (threshold, "request")


@pytest.mark.parametrize("pair", SEPARATE, ids="+".join)
def test_combined_roles_do_not_search(strict_server, gallery, pair):
    """An operator who holds two roles of a separated pair is refused each search and comparison, on record."""
    client = strict_server.client(strict_server.detective("-".join(("both", *pair)), *pair))
    for call in (
        lambda: client.search_faces_by_image(CollectionId="arrests", Image={"Bytes": picture(1)}),
        lambda: client.search_faces(CollectionId="arrests", FaceId=gallery["name-1"]["FaceId"]),
        lambda: client.compare_faces(SourceImage={"Bytes": picture(1)}, TargetImage={"Bytes": picture(1)}),
    ):
        before = strict_server.entry_count()
        with pytest.raises(client.exceptions.AccessDeniedException, match="public-safety/roles"):
            call()
        (refused,) = strict_server.entries(before)
        assert (refused["type"], refused["rule"]) == ("refused", "public-safety/roles")


def test_identities_are_withheld_from_every_answer(investigator, strict_server, enroller, gallery):
    """Candidates and listed faces carry id, box and similarity; no ExternalImageId and no ImageId, which would tell who it is."""
    found = [
        *(
            match["Face"]
            for match in investigator.search_faces_by_image(CollectionId="arrests", Image={"Bytes": picture(1)})["FaceMatches"]
        ),
        *investigator.list_faces(CollectionId="arrests")["Faces"],
        *investigator.list_faces(CollectionId="arrests", FaceIds=[gallery["name-2"]["FaceId"]])["Faces"],
        *strict_server.client().list_faces(CollectionId="arrests")["Faces"],
        *enroller.list_faces(CollectionId="arrests")["Faces"],
    ]
    assert len(found) == 1 + 6 + 1 + 6 + 6
    for face in found:
        assert set(face) == {"FaceId", "BoundingBox", "Confidence", "IndexFacesModelVersion"}
    enroller.index_faces(CollectionId="arrests", Image={"Bytes": picture(1, take=1)}, ExternalImageId="twin")
    candidates = investigator.search_faces(CollectionId="arrests", FaceId=gallery["name-1"]["FaceId"])["FaceMatches"]
    assert [set(match["Face"]) for match in candidates] == [{"FaceId", "BoundingBox", "Confidence", "IndexFacesModelVersion"}]


def test_the_record_says_that_identities_were_withheld(strict_server, investigator, gallery):
    """The outcome carries it."""
    before = strict_server.entry_count()
    investigator.search_faces_by_image(CollectionId="arrests", Image={"Bytes": picture(1)})
    assert strict_server.entries(before)[1]["identities_withheld"] is True


def test_no_list_is_longer_than_100(strict_server, enroller, investigator):
    """MaxFaces above the pack's maximum is cut to it: a list that people can review one by one."""
    strict_server.client().create_collection(CollectionId="crowd")
    for i in range(5):
        image = canvas(*[1] * 24, size=24)
        enroller.index_faces(CollectionId="crowd", Image={"Bytes": encoded(image)}, ExternalImageId=str(i))
    answer = investigator.search_faces_by_image(CollectionId="crowd", Image={"Bytes": picture(1, size=24)}, MaxFaces=4096)
    assert basis(answer)["gallery-size"] == "120"
    assert len(answer["FaceMatches"]) == 100


def test_a_tagged_collection_is_strict_on_a_general_server(server, rekognition, collection):
    """The tag `aboveboard:policy` puts one collection under public-safety; others, and CompareFaces, stay general."""
    rekognition.create_collection(CollectionId=f"{collection}-strict", Tags={"aboveboard:policy": "public-safety"})
    client = server.client(server.detective(f"detective-{collection}"))
    with pytest.raises(client.exceptions.AccessDeniedException, match=r"public-safety/threshold\.floor"):
        client.search_faces_by_image(CollectionId=f"{collection}-strict", Image={"Bytes": picture(1)}, FaceMatchThreshold=80)
    assert basis(client.search_faces_by_image(CollectionId=f"{collection}-strict", Image={"Bytes": picture(1)}))["threshold"] == "99"
    assert (
        basis(client.search_faces_by_image(CollectionId=collection, Image={"Bytes": picture(1)}, FaceMatchThreshold=1))["threshold"] == "1"
    )
    assert basis(client.compare_faces(SourceImage={"Bytes": picture(1)}, TargetImage={"Bytes": picture(1)}))["policy"] == "general"
    with pytest.raises(rekognition.exceptions.AccessDeniedException, match="public-safety/roles"):
        rekognition.search_faces_by_image(CollectionId=f"{collection}-strict", Image={"Bytes": picture(1)})


def test_tightening_takes_force_between_two_searches(rekognition, server, collection):
    """The tag is read at each search: the one before was general, the next is strict."""
    client = server.client(server.detective(f"tightened-{collection}"))
    rekognition.index_faces(CollectionId=collection, Image={"Bytes": picture(1)}, ExternalImageId="name")
    before = client.search_faces_by_image(CollectionId=collection, Image={"Bytes": picture(1)})
    arn = rekognition.describe_collection(CollectionId=collection)["CollectionARN"]
    rekognition.tag_resource(ResourceArn=arn, Tags={"aboveboard:policy": "public-safety"})
    after = client.search_faces_by_image(CollectionId=collection, Image={"Bytes": picture(1)})
    assert [basis(answer)["policy"] for answer in (before, after)] == ["general", "public-safety"]
    assert before["FaceMatches"][0]["Face"]["ExternalImageId"] == "name"
    assert "ExternalImageId" not in after["FaceMatches"][0]["Face"]


def test_every_other_pair_of_roles_may_be_combined(strict_server, gallery):
    """Only the named pairs are kept apart: an investigator may also be an auditor."""
    roles = ("admin", "enroller", "investigator", "reviewer", "auditor")
    free = [pair for pair in itertools.combinations(roles, 2) if pair not in SEPARATE and "investigator" in pair]
    assert free == [("investigator", "auditor")]
    client = strict_server.client(strict_server.detective("investigating-auditor", *free[0]))
    assert client.search_faces_by_image(CollectionId="arrests", Image={"Bytes": picture(1)})["FaceMatches"]
