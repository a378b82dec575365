"""Users, the people of a collection: the seven operations over the wire, with every reason, status and limit."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import sqlalchemy as sa
from kit import basis, picture
from people import associate, index, three_people, users_of

from aboveboard.biometrics.calibration import fmr_at
from aboveboard.storage.schema import TEMPLATES

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def people(rekognition, collection):
    return three_people(rekognition, collection)


class TestMakingAndDeleting:
    """CreateUser, ListUsers, DeleteUser."""

    def test_users_are_listed_in_the_order_they_were_made_page_by_page(self, rekognition, collection):
        """MaxResults and NextToken; the paginator of boto3 walks them; DescribeCollection counts them."""
        names = [f"user:{i}.a-b_c" for i in range(7)]
        for name in names:
            rekognition.create_user(CollectionId=collection, UserId=name)
        pages = list(rekognition.get_paginator("list_users").paginate(CollectionId=collection, PaginationConfig={"PageSize": 3}))
        assert [[user["UserId"] for user in page["Users"]] for page in pages] == [names[:3], names[3:6], names[6:]]
        assert {user["UserStatus"] for page in pages for user in page["Users"]} == {"CREATED"}
        assert rekognition.describe_collection(CollectionId=collection)["UserCount"] == 7
        assert len(rekognition.list_users(CollectionId=collection)["Users"]) == 7

    def test_a_user_belongs_to_one_collection(self, rekognition, collection):
        """The same id in two collections is two people; a page token of one is none of the other."""
        rekognition.create_collection(CollectionId=f"{collection}-b")
        for place in (collection, f"{collection}-b"):
            for user in ("a", "b"):
                rekognition.create_user(CollectionId=place, UserId=user)
        token = rekognition.list_users(CollectionId=collection, MaxResults=1)["NextToken"]
        with pytest.raises(rekognition.exceptions.InvalidPaginationTokenException):
            rekognition.list_users(CollectionId=f"{collection}-b", NextToken=token)
        rekognition.delete_user(CollectionId=collection, UserId="a")
        assert [user["UserId"] for user in rekognition.list_users(CollectionId=f"{collection}-b")["Users"]] == ["a", "b"]

    def test_an_id_is_taken_once(self, rekognition, collection):
        """ConflictException; ids are case-sensitive; once deleted an id is free."""
        rekognition.create_user(CollectionId=collection, UserId="Ada")
        with pytest.raises(rekognition.exceptions.ConflictException, match="Ada already exists"):
            rekognition.create_user(CollectionId=collection, UserId="Ada")
        rekognition.create_user(CollectionId=collection, UserId="ada")
        rekognition.delete_user(CollectionId=collection, UserId="Ada")
        rekognition.create_user(CollectionId=collection, UserId="Ada")

    def test_what_does_not_exist_is_not_found(self, rekognition, collection):
        """Unknown users and collections: ResourceNotFoundException that names them."""
        for call in (
            lambda c: rekognition.delete_user(CollectionId=c, UserId="nobody"),
            lambda c: associate(rekognition, c, "nobody", UNKNOWN),
            lambda c: rekognition.disassociate_faces(CollectionId=c, UserId="nobody", FaceIds=[UNKNOWN]),
            lambda c: rekognition.search_users(CollectionId=c, UserId="nobody"),
            lambda c: rekognition.list_faces(CollectionId=c, UserId="nobody"),
        ):
            with pytest.raises(rekognition.exceptions.ResourceNotFoundException, match="nobody"):
                call(collection)
            with pytest.raises(rekognition.exceptions.ResourceNotFoundException, match="no-such"):
                call("no-such")

    def test_deleting_a_user_leaves_his_faces(self, rekognition, collection, people):
        """They are nobody's again, and may be deleted or be somebody else's."""
        associate(rekognition, collection, "one", people[1, 0], people[1, 1])
        rekognition.delete_user(CollectionId=collection, UserId="one")
        assert set(users_of(rekognition, collection).values()) == {None}
        assert rekognition.search_users(CollectionId=collection, FaceId=people[1, 2])["UserMatches"] == []
        assert associate(rekognition, collection, "two", people[1, 0])["AssociatedFaces"] == [{"FaceId": people[1, 0]}]

    def test_a_deleted_collection_takes_its_users_along(self, rekognition, collection, people):
        """A collection made anew under the same id has none."""
        associate(rekognition, collection, "one", people[1, 0])
        rekognition.delete_collection(CollectionId=collection)
        rekognition.create_collection(CollectionId=collection)
        assert rekognition.list_users(CollectionId=collection)["Users"] == []


class TestAssociating:
    """AssociateFaces and DisassociateFaces."""

    def test_faces_that_are_alike_become_the_users(self, rekognition, collection, people):
        """The first of a user without faces as it is, the others where they reach the threshold; 75 by default."""
        answer = associate(rekognition, collection, "one", people[1, 0], people[1, 1], people[2, 0])
        assert answer["AssociatedFaces"] == [{"FaceId": people[1, 0]}, {"FaceId": people[1, 1]}]
        (failure,) = answer["UnsuccessfulFaceAssociations"]
        assert failure.pop("Confidence") < 75
        assert failure == {"FaceId": people[2, 0], "UserId": "one", "Reasons": ["LOW_MATCH_CONFIDENCE"]}
        assert answer["UserStatus"] == "ACTIVE"
        assert (basis(answer)["threshold"], basis(answer)["threshold-origin"]) == ("75", "default")
        listed = users_of(rekognition, collection)
        assert [face for face, user in listed.items() if user == "one"] == [people[1, 0], people[1, 1]]
        statuses = {user["UserId"]: user["UserStatus"] for user in rekognition.list_users(CollectionId=collection)["Users"]}
        assert statuses == {"one": "ACTIVE", "two": "CREATED", "three": "CREATED"}

    def test_the_threshold_decides(self, rekognition, collection, people):
        """0 takes anybody; the similarity of a face that failed is the highest threshold at which it passes."""
        associate(rekognition, collection, "one", people[1, 0])
        answer = associate(rekognition, collection, "one", people[2, 0])
        similarity = answer["UnsuccessfulFaceAssociations"][0]["Confidence"]
        above = associate(rekognition, collection, "one", people[2, 0], UserMatchThreshold=similarity + 0.001)
        assert above["AssociatedFaces"] == []
        assert above["UnsuccessfulFaceAssociations"][0]["Confidence"] == pytest.approx(similarity)
        assert associate(rekognition, collection, "one", people[2, 0], UserMatchThreshold=similarity)["AssociatedFaces"]
        assert associate(rekognition, collection, "one", people[3, 0], UserMatchThreshold=0)["AssociatedFaces"]

    def test_a_chain_of_faces_is_taken_whatever_their_order(self, rekognition, collection):
        """A face like one that was just accepted is accepted with it."""
        variations = [0.0, 0.25, 0.5, 0.75]
        faces = [index(rekognition, collection, 1, take=5, variation=variation) for variation in variations]
        for user, order in (("up", [0, 1, 2, 3]), ("down", [0, 3, 2, 1])):
            rekognition.create_user(CollectionId=collection, UserId=user)
            answer = associate(rekognition, collection, user, *(faces[i] for i in order), UserMatchThreshold=60)
            taken = {face["FaceId"] for face in answer["AssociatedFaces"]}
            rekognition.delete_user(CollectionId=collection, UserId=user)
            if user == "up":
                first = taken
            assert taken == first
        assert len(first) > 1

    def test_each_reason(self, rekognition, collection, people):
        """FACE_NOT_FOUND, ASSOCIATED_TO_A_DIFFERENT_USER (whose), and a face that is the user's already in neither list."""
        associate(rekognition, collection, "one", people[1, 0])
        associate(rekognition, collection, "two", people[2, 0])
        answer = associate(rekognition, collection, "one", UNKNOWN, people[2, 0], people[1, 0], people[1, 1], people[1, 1])
        assert answer["AssociatedFaces"] == [{"FaceId": people[1, 1]}]
        assert answer["UnsuccessfulFaceAssociations"] == [
            {"FaceId": UNKNOWN, "Reasons": ["FACE_NOT_FOUND"]},
            {"FaceId": people[2, 0], "UserId": "two", "Reasons": ["ASSOCIATED_TO_A_DIFFERENT_USER"]},
        ]
        answer = rekognition.disassociate_faces(
            CollectionId=collection, UserId="one", FaceIds=[people[1, 1], people[2, 0], people[3, 0], UNKNOWN]
        )
        assert answer["DisassociatedFaces"] == [{"FaceId": people[1, 1]}]
        assert answer["UnsuccessfulFaceDisassociations"] == [
            {"FaceId": people[2, 0], "UserId": "two", "Reasons": ["ASSOCIATED_TO_A_DIFFERENT_USER"]},
            {"FaceId": people[3, 0], "Reasons": ["FACE_NOT_FOUND"]},
            {"FaceId": UNKNOWN, "Reasons": ["FACE_NOT_FOUND"]},
        ]
        assert answer["UserStatus"] == "ACTIVE"
        last = rekognition.disassociate_faces(CollectionId=collection, UserId="one", FaceIds=[people[1, 0]])
        assert last["UserStatus"] == "CREATED"

    def test_a_users_face_is_not_deleted(self, rekognition, collection, people):
        """ASSOCIATED_TO_AN_EXISTING_USER; afterwards it may be."""
        associate(rekognition, collection, "one", people[1, 0])
        answer = rekognition.delete_faces(CollectionId=collection, FaceIds=[people[1, 0], people[2, 0]])
        assert answer["DeletedFaces"] == [people[2, 0]]
        assert answer["UnsuccessfulFaceDeletions"] == [
            {"FaceId": people[1, 0], "UserId": "one", "Reasons": ["ASSOCIATED_TO_AN_EXISTING_USER"]}
        ]
        rekognition.disassociate_faces(CollectionId=collection, UserId="one", FaceIds=[people[1, 0]])
        assert rekognition.delete_faces(CollectionId=collection, FaceIds=[people[1, 0]])["DeletedFaces"] == [people[1, 0]]

    def test_a_user_has_at_most_a_hundred_faces(self, rekognition, collection):
        """ServiceQuotaExceededException for the whole request, and nothing of it is done."""
        rekognition.create_user(CollectionId=collection, UserId="many")
        faces = [index(rekognition, collection, 1, take) for take in range(101)]
        assert len(associate(rekognition, collection, "many", *faces[:99])["AssociatedFaces"]) == 99
        with pytest.raises(rekognition.exceptions.ServiceQuotaExceededException, match="at most 100 faces"):
            associate(rekognition, collection, "many", *faces[99:])
        assert len(associate(rekognition, collection, "many", faces[0], faces[99])["AssociatedFaces"]) == 1
        listed = rekognition.list_faces(CollectionId=collection, UserId="many", MaxResults=60)
        assert [face["FaceId"] for face in listed["Faces"]] == faces[:60]
        rest = rekognition.list_faces(CollectionId=collection, UserId="many", NextToken=listed["NextToken"])
        assert [face["FaceId"] for face in rest["Faces"]] == faces[60:100]
        with pytest.raises(rekognition.exceptions.InvalidPaginationTokenException):
            rekognition.list_faces(CollectionId=collection, NextToken=listed["NextToken"])

    def test_two_requests_at_once_leave_no_face_to_two_users(self, own_server):
        """Each face ends as one user's; the loser is told so, by ConflictException or by the reason."""
        client = own_server.client()
        client.create_collection(CollectionId="a")
        faces = [index(client, "a", 1, take) for take in range(6)]
        for user in ("x", "y"):
            client.create_user(CollectionId="a", UserId=user)
        barrier = threading.Barrier(2)

        def ask(user):
            taken = []
            for face in faces:
                barrier.wait()
                with suppress(client.exceptions.ConflictException):
                    taken += associate(client, "a", user, face, UserMatchThreshold=0)["AssociatedFaces"]
            return {face["FaceId"] for face in taken}

        with ThreadPoolExecutor(2) as pool:
            x, y = pool.map(ask, ("x", "y"))
        assert not x & y
        listed = users_of(client, "a")
        assert x == {face for face, user in listed.items() if user == "x"}
        assert y == {face for face, user in listed.items() if user == "y"}

    def test_the_ledger_names_users_by_a_handle(self, server, rekognition, collection, people):
        """A UserId may be a name, and an entry cannot be taken back: it is in no entry."""
        before = server.entry_count()
        rekognition.create_user(CollectionId=collection, UserId="a-persons-name")
        associate(rekognition, collection, "a-persons-name", people[1, 0])
        rekognition.search_users(CollectionId=collection, FaceId=people[1, 1])
        rekognition.search_users(CollectionId=collection, UserId="a-persons-name")
        rekognition.disassociate_faces(CollectionId=collection, UserId="a-persons-name", FaceIds=[people[1, 0]])
        rekognition.delete_user(CollectionId=collection, UserId="a-persons-name")
        entries = server.entries(before)
        assert "a-persons-name" not in str(entries)
        changes = [entry for entry in entries if entry["type"].startswith("subject.")]
        assert [entry["type"] for entry in changes] == [
            "subject.created", "subject.associated", "subject.disassociated", "subject.deleted",
        ]  # fmt: skip
        assert len({entry["subject"] for entry in changes}) == 1

    def test_an_outcome_says_how_many_people_there_are_but_not_who_has_three_faces(self, server, rekognition, collection, people):
        """Each user and each face without one counts; a user's own number of faces is rounded up to a power of two."""
        associate(rekognition, collection, "one", *(people[1, take] for take in range(3)))
        associate(rekognition, collection, "two", people[2, 0], people[2, 1])
        before = server.entry_count()
        rekognition.search_faces_by_image(CollectionId=collection, Image={"Bytes": picture(1, take=7, variation=0.1)})
        rekognition.search_faces(CollectionId=collection, FaceId=people[1, 0])
        rekognition.search_faces(CollectionId=collection, FaceId=people[2, 2])
        outcomes = [entry for entry in server.entries(before) if entry["type"] == "look.outcome"]
        assert [one["people"] for one in outcomes] == [6, 6, 5]
        assert [[(each["person"], each["faces"]) for each in one["candidates"]] for one in outcomes] == [
            3 * [(1, 4)],
            2 * [(1, 2)],
            2 * [(1, 2)],
        ]


class TestSearching:
    """SearchUsers and SearchUsersByImage."""

    def test_a_photograph_finds_the_user(self, rekognition, collection, people):
        """UserMatches with similarity, id and status; the searched face, and why the others were not searched."""
        associate(rekognition, collection, "one", people[1, 0], people[1, 1])
        associate(rekognition, collection, "two", people[2, 0])
        answer = rekognition.search_users_by_image(CollectionId=collection, Image={"Bytes": picture(1, 2, take=7, variation=0.1)})
        (match,) = answer["UserMatches"]
        assert match["User"] == {"UserId": "one", "UserStatus": "ACTIVE"}
        assert match["Similarity"] >= 80
        assert answer["FaceModelVersion"] == "0.1"
        detail = answer["SearchedFace"]["FaceDetail"]
        (other,) = answer["UnsearchedFaces"]
        assert other["Reasons"] == ["FACE_NOT_LARGEST"]
        assert detail["BoundingBox"]["Width"] > other["FaceDetails"]["BoundingBox"]["Width"]
        assert (basis(answer)["gallery-size"], basis(answer)["threshold"]) == ("2", "80")

    def test_without_a_face_nobody_is_searched_for(self, rekognition, collection, people):
        """200 with an empty list and no SearchedFace, as Amazon answers it; with a filter the reasons are told."""
        answer = rekognition.search_users_by_image(CollectionId=collection, Image={"Bytes": picture()})
        assert answer["UserMatches"] == answer["UnsearchedFaces"] == []
        assert "SearchedFace" not in answer
        assert set(basis(answer)) == {"audit-id"}
        small = {"Bytes": picture(1, size=48)}
        answer = rekognition.search_users_by_image(CollectionId=collection, Image=small, QualityFilter="HIGH")
        assert [face["Reasons"] for face in answer["UnsearchedFaces"]] == [["SMALL_BOUNDING_BOX"]]
        assert "SearchedFace" not in answer

    def test_faces_of_nobody_are_not_searched(self, rekognition, collection, people):
        """Only users are candidates, and N counts users with faces."""
        answer = rekognition.search_users_by_image(CollectionId=collection, Image={"Bytes": picture(1)})
        assert answer["UserMatches"] == []
        assert basis(answer)["gallery-size"] == "0"

    def test_a_face_id_searches_without_itself(self, rekognition, collection, people):
        """Its own user is found by his other faces only."""
        associate(rekognition, collection, "one", people[1, 0])
        assert rekognition.search_users(CollectionId=collection, FaceId=people[1, 0])["UserMatches"] == []
        answer = rekognition.search_users(CollectionId=collection, FaceId=people[1, 1])
        assert [match["User"]["UserId"] for match in answer["UserMatches"]] == ["one"]
        assert answer["SearchedFace"] == {"FaceId": people[1, 1]}
        assert "SearchedUser" not in answer

    def test_a_user_searches_without_himself(self, rekognition, collection, people):
        """One person under two ids is found; the searched user is not in the answer; one without faces finds nobody."""
        associate(rekognition, collection, "one", people[1, 0])
        associate(rekognition, collection, "two", people[1, 1])
        answer = rekognition.search_users(CollectionId=collection, UserId="one")
        assert [match["User"]["UserId"] for match in answer["UserMatches"]] == ["two"]
        assert answer["SearchedUser"] == {"UserId": "one"}
        answer = rekognition.search_users(CollectionId=collection, UserId="three")
        assert answer["UserMatches"] == []
        assert set(basis(answer)) == {"audit-id"}

    def test_exactly_one_of_user_and_face(self, rekognition, collection, people):
        """Both or neither: InvalidParameterException; an unknown face as in SearchFaces."""
        for members in ({}, {"UserId": "one", "FaceId": people[1, 0]}):
            with pytest.raises(rekognition.exceptions.InvalidParameterException, match="either UserId or FaceId"):
                rekognition.search_users(CollectionId=collection, **members)
        with pytest.raises(rekognition.exceptions.InvalidParameterException, match="faceId was not found in the collection"):
            rekognition.search_users(CollectionId=collection, FaceId=UNKNOWN)

    def test_the_best_of_m_faces_keeps_the_promise(self, rekognition, collection):
        """FMR_user = 1 - (1 - FMR)^m: for the same best face a user with more faces has a lower similarity, by exactly that."""
        near = index(rekognition, collection, 1, take=1, variation=0.5)
        far = [index(rekognition, collection, 2, take) for take in range(4)]
        probe = {"Bytes": picture(1, take=2, variation=0.5)}
        face = rekognition.search_faces_by_image(CollectionId=collection, Image=probe, FaceMatchThreshold=0.001)["FaceMatches"][0]
        assert face["Face"]["FaceId"] == near
        rekognition.create_user(CollectionId=collection, UserId="u")
        associate(rekognition, collection, "u", near)
        for m in range(1, 6):
            answer = rekognition.search_users_by_image(CollectionId=collection, Image=probe, UserMatchThreshold=0.001)
            (match,) = answer["UserMatches"]
            expected = -math.expm1(m * math.log1p(-fmr_at(face["Similarity"])))
            assert fmr_at(match["Similarity"]) == pytest.approx(expected, rel=1e-4)
            assert basis(answer)["gallery-size"] == "1"
            if m < 5:
                associate(rekognition, collection, "u", far[m - 1], UserMatchThreshold=0)

    def test_max_users_cuts_the_list(self, rekognition, collection, people):
        """The best first."""
        for person, user in ((1, "one"), (2, "two"), (3, "three")):
            associate(rekognition, collection, user, people[person, 0])
        found = rekognition.search_users(CollectionId=collection, FaceId=people[1, 1], UserMatchThreshold=0)["UserMatches"]
        assert [match["Similarity"] for match in found] == sorted((match["Similarity"] for match in found), reverse=True)
        assert len(found) == 3
        first = rekognition.search_users(CollectionId=collection, FaceId=people[1, 1], UserMatchThreshold=0, MaxUsers=1)["UserMatches"]
        assert first == found[:1]

    def test_a_search_sees_what_was_associated_before_it(self, rekognition, collection, people):
        """Read your writes: association, disassociation, new faces."""
        search = {"CollectionId": collection, "Image": {"Bytes": picture(1)}}
        for _ in range(3):
            associate(rekognition, collection, "one", people[1, 0])
            assert len(rekognition.search_users_by_image(**search)["UserMatches"]) == 1
            rekognition.disassociate_faces(CollectionId=collection, UserId="one", FaceIds=[people[1, 0]])
            assert rekognition.search_users_by_image(**search)["UserMatches"] == []
        late = index(rekognition, collection, 1, take=9)
        associate(rekognition, collection, "two", late)
        assert [m["User"]["UserId"] for m in rekognition.search_users_by_image(**search)["UserMatches"]] == ["two"]


def test_the_rates_of_a_users_look_are_those_of_people(rekognition, collection, people):
    """An association is one comparison with one person; the FNIR of a search is that of the person with the most faces."""
    associate(rekognition, collection, "one", *(people[1, take] for take in range(2)))
    answer = associate(rekognition, collection, "one", people[1, 2])
    assert (basis(answer)["gallery-size"], basis(answer)["expected-false"]) == ("1", basis(answer)["fmr"])
    same = {"Bytes": picture(1, take=0, variation=0.1)}
    found = rekognition.search_users_by_image(CollectionId=collection, Image=same, UserMatchThreshold=100)
    assert [match["Similarity"] for match in found["UserMatches"]] == [100]


def test_users_make_no_templates(own_server):
    """A user is rows about faces: nothing new that would have to be erased."""
    client = own_server.client()
    client.create_collection(CollectionId="a")
    faces = [index(client, "a", 1, take) for take in range(2)]
    client.create_user(CollectionId="a", UserId="u")
    associate(client, "a", "u", *faces)
    with own_server.app.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(TEMPLATES)).scalar() == 2
