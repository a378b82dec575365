"""SearchFacesByImage and SearchFaces over the wire."""

from __future__ import annotations

import itertools

import pytest
from botocore.exceptions import ClientError
from kit import BASIS, NO_FACE, basis, canvas, encoded, picture

from aboveboard.vision import null

UNKNOWN = "00000000-0000-4000-8000-000000000000"
PEOPLE = 12


@pytest.fixture(scope="module")
def gallery(rekognition):
    """Twelve people with one photograph each, and three more of person 1 that resemble him less and less; face ids by external id."""
    rekognition.create_collection(CollectionId="gallery")
    faces = {}
    photographs = {f"p{i}": picture(i) for i in range(PEOPLE)} | {f"p1-{v}": picture(1, take=v, variation=v / 10) for v in (1, 3, 5)}
    for name, data in photographs.items():
        answer = rekognition.index_faces(CollectionId="gallery", Image={"Bytes": data}, ExternalImageId=name)
        faces[name] = answer["FaceRecords"][0]["Face"]
    return faces


def by_image(client, image, collection="gallery", **members):
    return client.search_faces_by_image(CollectionId=collection, Image={"Bytes": image}, **members)


def by_face(client, face, collection="gallery", **members):
    return client.search_faces(CollectionId=collection, FaceId=face["FaceId"], **members)


def names(answer):
    return [match["Face"]["ExternalImageId"] for match in answer["FaceMatches"]]


def test_a_search_by_image_finds_the_person(rekognition, gallery):
    """The enrolled photograph itself first, at 100, with the very Face that IndexFaces answered; nobody else at 80."""
    answer = by_image(rekognition, picture(2))
    (match,) = answer["FaceMatches"]
    assert match["Similarity"] == 100.0
    assert match["Face"] == gallery["p2"]
    assert answer["FaceModelVersion"] == "0.1"


def test_a_person_who_is_not_enrolled_brings_nobody(rekognition, gallery):
    """200 and an empty list, on record like every search."""
    answer = by_image(rekognition, picture(999))
    assert answer["FaceMatches"] == []
    assert answer["SearchedFaceConfidence"] > 0


def test_an_empty_collection_answers_nobody(rekognition, collection):
    """200, an empty list, and a gallery size of 0."""
    answer = by_image(rekognition, picture(1), collection)
    assert answer["FaceMatches"] == []
    assert basis(answer)["gallery-size"] == "0"
    assert float(basis(answer)["expected-false"]) == 0


def test_candidates_fall_in_similarity_and_hold_the_threshold(rekognition, gallery):
    """Falling similarity, none below the threshold, and a higher threshold gives the head of the same list."""
    lists = []
    for threshold in (0, 10, 50, 80, 99, 100):
        answer = by_image(rekognition, picture(1), FaceMatchThreshold=threshold, MaxFaces=4096)
        similarities = [match["Similarity"] for match in answer["FaceMatches"]]
        assert similarities == sorted(similarities, reverse=True)
        assert all(similarity >= threshold for similarity in similarities)
        lists.append(names(answer))
    assert len(lists[0]) == len(gallery)
    for longer, shorter in itertools.pairwise(lists):
        assert longer[: len(shorter)] == shorter
    assert lists[0][:4] == ["p1", "p1-1", "p1-3", "p1-5"]


def test_the_default_threshold_is_80_and_says_so(rekognition, gallery):
    """Absent FaceMatchThreshold: 80, origin `default`; an explicit 80 answers the same faces, origin `request`."""
    for search in (lambda **m: by_image(rekognition, picture(1), **m), lambda **m: by_face(rekognition, gallery["p1"], **m)):
        absent, given = search(), search(FaceMatchThreshold=80.0)
        assert absent["FaceMatches"] == given["FaceMatches"]
        assert (basis(absent)["threshold"], basis(absent)["threshold-origin"]) == ("80", "default")
        assert (basis(given)["threshold"], basis(given)["threshold-origin"]) == ("80", "request")


def test_every_header_of_the_basis_is_there_and_agrees_with_itself(rekognition, gallery):
    """N, FMR, E = N x FMR and FPIR = 1 - (1 - FMR)^N stand in the headers of every search and comparison."""
    answers = [
        by_image(rekognition, picture(1)),
        by_face(rekognition, gallery["p1"]),
        rekognition.compare_faces(SourceImage={"Bytes": picture(1)}, TargetImage={"Bytes": picture(1, 2)}),
    ]
    for answer, size in zip(answers, (len(gallery), len(gallery) - 1, 2), strict=True):
        shown = basis(answer)
        assert set(BASIS) <= set(shown)
        assert int(shown["gallery-size"]) == size
        fmr = float(shown["fmr"])
        assert fmr == pytest.approx(2e-6)
        assert float(shown["expected-false"]) == pytest.approx(size * fmr, rel=0.01)
        assert float(shown["fpir"]) == pytest.approx(1 - (1 - fmr) ** size, rel=0.01)
        assert 0 <= float(shown["fnir"]) <= 1
        assert (shown["policy"], shown["floor"]) == ("general", "0")
        assert shown["extrapolated"] in ("true", "false")
    assert float(basis(by_image(rekognition, picture(1), FaceMatchThreshold=99))["fmr"]) == pytest.approx(1e-8)


@pytest.mark.parametrize("most", [1, 2, 5, 15, 16, 4096])
def test_max_faces_is_the_length_of_the_list(rekognition, gallery, most):
    """The best MaxFaces of the whole list, by image and by face."""
    whole = names(by_image(rekognition, picture(1), FaceMatchThreshold=0, MaxFaces=4096))
    assert names(by_image(rekognition, picture(1), FaceMatchThreshold=0, MaxFaces=most)) == whole[:most]
    whole.remove("p1")
    assert names(by_face(rekognition, gallery["p1"], FaceMatchThreshold=0, MaxFaces=most)) == whole[:most]


def test_without_max_faces_80_candidates_come(rekognition, collection):
    """Amazon documents no default; ours is 80."""
    for i in range(3):
        image = canvas(*range(30 * i, 30 * i + 30), size=30)
        rekognition.index_faces(CollectionId=collection, Image={"Bytes": encoded(image)})
    assert len(by_image(rekognition, picture(1), collection, FaceMatchThreshold=0)["FaceMatches"]) == 80
    assert len(by_image(rekognition, picture(1), collection, FaceMatchThreshold=0, MaxFaces=90)["FaceMatches"]) == 90


def test_the_largest_face_of_the_photograph_is_searched(rekognition, gallery):
    """SearchedFaceBoundingBox is the largest face's, and the candidates are his."""
    image = canvas(3, size=50, width=400, height=200)
    null.draw(image, 150, 40, 110, 4)
    answer = by_image(rekognition, encoded(image))
    assert answer["SearchedFaceBoundingBox"]["Left"] == pytest.approx(150 / 400)
    assert answer["SearchedFaceBoundingBox"]["Width"] == pytest.approx(110 / 400)
    assert answer["SearchedFaceBoundingBox"]["Height"] == pytest.approx(110 / 200)
    assert names(answer) == ["p4"]


def test_no_face_in_the_photograph_is_refused_in_amazons_words(rekognition, gallery):
    """InvalidParameterException with the text that clients compare."""
    with pytest.raises(rekognition.exceptions.InvalidParameterException) as refused:
        by_image(rekognition, picture())
    assert refused.value.response["Error"]["Message"] == NO_FACE


def test_quality_filter_decides_what_is_searched(rekognition, gallery):
    """NONE (the default) searches a small face; HIGH refuses it in words."""
    small = picture(2, size=32)
    assert names(by_image(rekognition, small, FaceMatchThreshold=50)) == names(
        by_image(rekognition, small, FaceMatchThreshold=50, QualityFilter="NONE")
    )
    with pytest.raises(rekognition.exceptions.InvalidParameterException, match="pass the quality filter HIGH"):
        by_image(rekognition, small, QualityFilter="HIGH")


def test_a_search_by_face_leaves_the_face_itself_out(rekognition, gallery):
    """SearchFaces answers SearchedFaceId and everybody else, never the face itself, at no threshold."""
    answer = by_face(rekognition, gallery["p1"], FaceMatchThreshold=0, MaxFaces=4096)
    assert answer["SearchedFaceId"] == gallery["p1"]["FaceId"]
    assert len(answer["FaceMatches"]) == len(gallery) - 1
    assert "p1" not in names(answer)
    assert names(answer)[:3] == ["p1-1", "p1-3", "p1-5"]
    assert answer["FaceModelVersion"] == "0.1"


def test_a_search_by_face_agrees_with_one_by_its_photograph(rekognition, gallery):
    """The same template, the same similarities."""
    one = by_face(rekognition, gallery["p5"], FaceMatchThreshold=0, MaxFaces=4096)["FaceMatches"]
    other = by_image(rekognition, picture(5), FaceMatchThreshold=0, MaxFaces=4096)["FaceMatches"]
    assert one == [match for match in other if match["Face"]["FaceId"] != gallery["p5"]["FaceId"]]


def test_an_unknown_face_is_refused_in_amazons_words(rekognition, gallery, collection):
    """InvalidParameterException 'faceId was not found in the collection', for a face of another collection too."""
    for where, face in (("gallery", UNKNOWN), (collection, gallery["p1"]["FaceId"])):
        with pytest.raises(rekognition.exceptions.InvalidParameterException) as refused:
            rekognition.search_faces(CollectionId=where, FaceId=face)
        assert refused.value.response["Error"]["Message"] == "faceId was not found in the collection"


def test_writes_are_seen_by_the_next_search(rekognition, collection):
    """Read-your-writes: an acknowledged face is found, a deleted one is not, in both kinds of search."""
    for i in range(20):
        indexed = rekognition.index_faces(CollectionId=collection, Image={"Bytes": picture(i)}, ExternalImageId=f"e{i}")
        face = indexed["FaceRecords"][0]["Face"]
        assert names(by_image(rekognition, picture(i), collection, FaceMatchThreshold=99)) == [f"e{i}"]
        assert basis(by_face(rekognition, face, collection))["gallery-size"] == str(i - i // 3)
        if i % 3 == 2:
            rekognition.delete_faces(CollectionId=collection, FaceIds=[face["FaceId"]])
            assert names(by_image(rekognition, picture(i), collection, FaceMatchThreshold=99)) == []
            with pytest.raises(ClientError, match="faceId was not found"):
                by_face(rekognition, face, collection)


def test_equal_faces_are_answered_in_the_same_order_every_time(rekognition, collection):
    """Ties are ordered by face id, so that two runs agree."""
    for i in range(6):
        rekognition.index_faces(CollectionId=collection, Image={"Bytes": picture(1)}, ExternalImageId=f"e{i}")
    found = [match["Face"]["FaceId"] for match in by_image(rekognition, picture(1), collection)["FaceMatches"]]
    assert found == sorted(found)
    assert [m["Face"]["FaceId"] for m in by_image(rekognition, picture(1), collection, MaxFaces=3)["FaceMatches"]] == found[:3]


@pytest.mark.parametrize("role", ["admin", "enroller", "reviewer", "auditor"])
def test_only_an_investigator_searches(server, gallery, role):
    """Searching needs the investigator role; each refusal is recorded with its duty."""
    client = server.client(server.operator(f"searcher-{role}", role))
    for call, duty in ((lambda: by_image(client, picture(1)), "search.image"), (lambda: by_face(client, gallery["p1"]), "search.face")):
        before = server.entry_count()
        with pytest.raises(client.exceptions.AccessDeniedException, match="needs the role investigator"):
            call()
        (refused,) = server.entries(before)
        assert (refused["type"], refused["duty"], refused["rule"], refused["collection"]) == ("refused", duty, "general/roles", "gallery")
