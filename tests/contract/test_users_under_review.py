"""Users under `public-safety`: no answer ties a face to a person before people have reviewed it."""

from __future__ import annotations

import pytest
from kit import picture
from people import associate, index


@pytest.fixture(scope="module")
def arrests(strict_server):
    """A strict collection in which 'name-1' is a user with two faces: the enroller's client, the investigator's, the face ids."""
    strict_server.client().create_collection(CollectionId="users")
    enroller = strict_server.client(strict_server.operator("users-enroller", "enroller"))
    investigator = strict_server.client(strict_server.detective("users-investigator"))
    faces = [index(enroller, "users", 1, take, variation=0.02) for take in range(3)]
    enroller.create_user(CollectionId="users", UserId="name-1")
    associate(enroller, "users", "name-1", *faces[:2], UserMatchThreshold=99)
    return enroller, investigator, faces


class TestUnderReview:
    """Under `public-safety` no answer ties a face to a user."""

    def test_a_search_answers_similarity_without_the_user(self, arrests):
        """By image and by face; the ledger knows the handle."""
        _, investigator, faces = arrests
        image = {"Bytes": picture(1, take=8, variation=0.02)}
        for answer in (
            investigator.search_users_by_image(CollectionId="users", Image=image),
            investigator.search_users(CollectionId="users", FaceId=faces[2]),
        ):
            (match,) = answer["UserMatches"]
            assert match["User"] == {"UserStatus": "ACTIVE"}
            assert match["Similarity"] >= 99

    def test_lists_do_not_tie_a_face_to_a_user(self, arrests):
        """ListFaces leaves UserId out, and by UserId it is refused to all but the enroller, who keeps the records."""
        enroller, investigator, faces = arrests
        assert all("UserId" not in face for face in investigator.list_faces(CollectionId="users")["Faces"])
        with pytest.raises(investigator.exceptions.AccessDeniedException, match="public-safety/review"):
            investigator.list_faces(CollectionId="users", UserId="name-1")
        assert len(enroller.list_faces(CollectionId="users", UserId="name-1")["Faces"]) == 2
        kept = enroller.delete_faces(CollectionId="users", FaceIds=faces[:1])["UnsuccessfulFaceDeletions"]
        assert kept == [{"FaceId": faces[0], "Reasons": ["ASSOCIATED_TO_AN_EXISTING_USER"]}]

    def test_nobody_but_the_enroller_learns_who_there_is(self, arrests, strict_server):
        """Users in the order they were made beside faces in the order of enrolment would tell whose they are; so would the similarities
        of a user known by his id, and the owner of a face. Each refusal is on record."""
        enroller, investigator, faces = arrests
        before = strict_server.entry_count()
        for call in (
            lambda: investigator.list_users(CollectionId="users"),
            lambda: investigator.search_users(CollectionId="users", UserId="name-1"),
        ):
            with pytest.raises(investigator.exceptions.AccessDeniedException, match="public-safety/review"):
                call()
        assert [entry["rule"] for entry in strict_server.entries(before)] == ["public-safety/review"] * 2
        assert enroller.list_users(CollectionId="users")["Users"][0]["UserId"] == "name-1"
        enroller.create_user(CollectionId="users", UserId="name-2")
        taken = enroller.disassociate_faces(CollectionId="users", UserId="name-2", FaceIds=faces[:1])
        given = associate(enroller, "users", "name-2", faces[0])
        for failures in (taken["UnsuccessfulFaceDisassociations"], given["UnsuccessfulFaceAssociations"]):
            assert failures == [{"FaceId": faces[0], "Reasons": ["ASSOCIATED_TO_A_DIFFERENT_USER"]}]

    def test_a_similarity_below_the_floor_is_not_told(self, arrests):
        """LOW_MATCH_CONFIDENCE without a number."""
        enroller, _, _ = arrests
        stranger = index(enroller, "users", 2)
        (failure,) = associate(enroller, "users", "name-1", stranger)["UnsuccessfulFaceAssociations"]
        assert failure == {"FaceId": stranger, "UserId": "name-1", "Reasons": ["LOW_MATCH_CONFIDENCE"]}
