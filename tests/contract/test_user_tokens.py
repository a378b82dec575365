"""ClientRequestToken: a request that is sent again is answered again, to whom it was answered, as long as its rules hold."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError
from people import associate, index, three_people, users_of

from aboveboard.service import erasure
from aboveboard.storage import requests
from aboveboard.storage.schema import REQUESTS


@pytest.fixture
def people(rekognition, collection):
    return three_people(rekognition, collection)


class TestTokens:
    """ClientRequestToken: the same request sent again is answered again."""

    def test_a_repeated_request_gets_the_same_answer_and_does_nothing_more(self, server, rekognition, collection, people):
        """As an SDK's retry after a lost answer sends it: the four operations that take a token."""
        calls = (
            ("CreateUser", {"UserId": "again"}),
            ("AssociateFaces", {"UserId": "again", "FaceIds": [people[1, 0], people[1, 1], people[2, 0]]}),
            ("DisassociateFaces", {"UserId": "again", "FaceIds": [people[1, 0], people[2, 0]]}),
            ("DeleteUser", {"UserId": "again"}),
        )
        for name, members in calls:
            request = {"CollectionId": collection, "ClientRequestToken": collection, **members}
            first = server.post(name, request)
            before = server.entry_count()
            second = server.post(name, request)
            assert (first.status, second.status) == (200, 200)
            assert first.json == second.json
            assert first.headers.get("x-aboveboard-audit-id") == second.headers.get("x-aboveboard-audit-id")
            assert server.entry_count() == before

    def test_a_token_with_another_request_is_refused(self, rekognition, collection):
        """IdempotentParameterMismatchException; the token of one operation is free for another."""
        rekognition.create_user(CollectionId=collection, UserId="a", ClientRequestToken=collection)
        with pytest.raises(rekognition.exceptions.IdempotentParameterMismatchException):
            rekognition.create_user(CollectionId=collection, UserId="b", ClientRequestToken=collection)
        rekognition.delete_user(CollectionId=collection, UserId="a", ClientRequestToken=collection)

    def test_another_operators_token_is_another_token(self, server, rekognition, collection):
        """Nobody is answered what was answered to somebody else."""
        rekognition.create_user(CollectionId=collection, UserId="a", ClientRequestToken=collection)
        other = server.client(server.operator(f"other-{collection}", "enroller"))
        with pytest.raises(ClientError, match="ConflictException"):
            other.create_user(CollectionId=collection, UserId="a", ClientRequestToken=collection)

    def test_an_operator_who_lost_his_right_is_not_answered(self, server, rekognition, collection):
        """The role is asked for before the token."""
        auditor = server.client(server.operator(f"auditor-{collection}", "auditor"))
        with pytest.raises(ClientError, match="AccessDeniedException"):
            auditor.create_user(CollectionId=collection, UserId="a", ClientRequestToken=collection)

    def test_answers_are_not_kept_for_ever(self, own_server, monkeypatch):
        """Older ones go when a new one comes."""
        client = own_server.client()
        client.create_collection(CollectionId="a")
        client.create_user(CollectionId="a", UserId="a")
        monkeypatch.setattr(requests, "KEPT", requests.KEPT * 0)
        client.create_user(CollectionId="a", UserId="b")
        with own_server.app.database.read() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(REQUESTS)).scalar() == 1


def test_a_token_does_not_outlive_its_collection(rekognition, collection, people):
    """Made anew under the same id, a collection is another one: the same request with the same token is done again."""
    for _ in range(2):
        rekognition.create_user(CollectionId=collection, UserId="x", ClientRequestToken=f"u-{collection}")
        face = index(rekognition, collection, 1)
        answer = associate(rekognition, collection, "x", face, ClientRequestToken=f"a-{collection}")
        assert [user["UserId"] for user in rekognition.list_users(CollectionId=collection)["Users"]][-1] == "x"
        assert answer["AssociatedFaces"] == [{"FaceId": face}]
        assert set(users_of(rekognition, collection).values()) - {None} == {"x"}
        rekognition.delete_collection(CollectionId=collection)
        rekognition.create_collection(CollectionId=collection)


def test_what_was_answered_under_looser_rules_is_not_answered_again(server, rekognition, collection, people):
    """After tightening, a repeated request is no way to a similarity below the floor."""
    first = associate(rekognition, collection, "one", people[1, 0], people[2, 0], ClientRequestToken=collection)
    assert first["UnsuccessfulFaceAssociations"][0]["Confidence"] < 99
    arn = rekognition.describe_collection(CollectionId=collection)["CollectionARN"]
    rekognition.tag_resource(ResourceArn=arn, Tags={"aboveboard:policy": "public-safety"})
    enroller = server.client(server.operator(f"enroller-{collection}", "enroller"))
    request = {"CollectionId": collection, "UserId": "one", "FaceIds": [people[1, 0], people[2, 0]], "ClientRequestToken": collection}
    reply = server.post("AssociateFaces", request)
    assert reply.code in ("AccessDeniedException", "IdempotentParameterMismatchException")
    (failure,) = enroller.associate_faces(CollectionId=collection, UserId="one", FaceIds=[people[2, 0]])["UnsuccessfulFaceAssociations"]
    assert "Confidence" not in failure


def test_no_id_of_a_user_is_kept_with_an_answer(own_server):
    """Answers that wait for a repetition name nobody; they go with their collection."""
    client = own_server.client()
    client.create_collection(CollectionId="a")
    for user in ("ann-lee", "bob-ray"):
        client.create_user(CollectionId="a", UserId=user)
    faces = [index(client, "a", person) for person in (1, 2)]
    for user in ("ann-lee", "bob-ray"):
        associate(client, "a", user, *faces)
        client.disassociate_faces(CollectionId="a", UserId=user, FaceIds=faces[:1])

    def kept():
        with own_server.app.database.read() as connection:
            return [str(tuple(row)) for row in connection.execute(sa.select(REQUESTS))]

    assert len(kept()) == 6
    assert not any(user in row for row in kept() for user in ("ann-lee", "bob-ray"))
    client.delete_collection(CollectionId="a")
    erasure.erase(own_server.app)
    assert kept() == []
