"""Collections over the wire: make, describe, list, delete."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest
from botocore.exceptions import ClientError
from kit import null_settings, picture, serving


def test_a_new_collection_answers_its_arn_and_the_model_version_it_is_pinned_to(rekognition):
    """CreateCollection answers 200, the full arn: form and the FaceModelVersion of the pack in use; Describe says the same."""
    made = rekognition.create_collection(CollectionId="Made.by-this_test")
    assert made["StatusCode"] == 200
    assert made["CollectionArn"] == "arn:aws:rekognition:us-east-1:000000000000:collection/Made.by-this_test"
    assert made["FaceModelVersion"] == "0.1"
    described = rekognition.describe_collection(CollectionId="Made.by-this_test")
    assert described["CollectionARN"] == made["CollectionArn"]
    assert described["FaceModelVersion"] == made["FaceModelVersion"]
    assert (described["FaceCount"], described["UserCount"]) == (0, 0)
    assert abs((datetime.now(UTC) - described["CreationTimestamp"]).total_seconds()) < 3600


def test_the_arn_carries_the_region_and_account_of_the_settings(make_server):
    """`region` and `account` of the settings stand in every ARN."""
    client = make_server(region="eu-central-1", account="123456789012").client()
    assert client.create_collection(CollectionId="a")["CollectionArn"] == "arn:aws:rekognition:eu-central-1:123456789012:collection/a"


def test_face_count_follows_indexing_and_deleting(rekognition, collection):
    """DescribeCollection's FaceCount counts the faces that are enrolled now."""
    indexed = rekognition.index_faces(CollectionId=collection, Image={"Bytes": picture(1, 2, 3)})
    assert rekognition.describe_collection(CollectionId=collection)["FaceCount"] == 3
    rekognition.delete_faces(CollectionId=collection, FaceIds=[indexed["FaceRecords"][0]["Face"]["FaceId"]])
    assert rekognition.describe_collection(CollectionId=collection)["FaceCount"] == 2


def test_a_taken_id_is_refused(rekognition, collection):
    """A second collection of the same id: ResourceAlreadyExistsException, in AWS's words; the first one is untouched."""
    rekognition.index_faces(CollectionId=collection, Image={"Bytes": picture(1)})
    with pytest.raises(rekognition.exceptions.ResourceAlreadyExistsException) as refused:
        rekognition.create_collection(CollectionId=collection)
    assert refused.value.response["Error"]["Message"] == f"The collection id: {collection} already exists."
    assert rekognition.describe_collection(CollectionId=collection)["FaceCount"] == 1


def test_ids_are_case_sensitive(rekognition):
    """`Case` and `case` are two collections."""
    rekognition.create_collection(CollectionId="Case")
    rekognition.create_collection(CollectionId="case")
    rekognition.delete_collection(CollectionId="Case")
    assert rekognition.describe_collection(CollectionId="case")["FaceCount"] == 0
    with pytest.raises(rekognition.exceptions.ResourceNotFoundException):
        rekognition.describe_collection(CollectionId="Case")


def test_a_deleted_collection_is_gone_with_its_faces(rekognition, collection):
    """DeleteCollection removes faces, templates and tags: a new collection of the same id knows nothing of the old one."""
    rekognition.index_faces(CollectionId=collection, Image={"Bytes": picture(1)})
    rekognition.search_faces_by_image(CollectionId=collection, Image={"Bytes": picture(1)})
    arn = rekognition.describe_collection(CollectionId=collection)["CollectionARN"]
    rekognition.tag_resource(ResourceArn=arn, Tags={"owner": "archive"})
    assert rekognition.delete_collection(CollectionId=collection)["StatusCode"] == 200
    for call in (
        lambda: rekognition.describe_collection(CollectionId=collection),
        lambda: rekognition.delete_collection(CollectionId=collection),
        lambda: rekognition.list_faces(CollectionId=collection),
        lambda: rekognition.search_faces_by_image(CollectionId=collection, Image={"Bytes": picture(1)}),
        lambda: rekognition.list_tags_for_resource(ResourceArn=arn),
    ):
        with pytest.raises(rekognition.exceptions.ResourceNotFoundException):
            call()
    rekognition.create_collection(CollectionId=collection)
    assert rekognition.describe_collection(CollectionId=collection)["FaceCount"] == 0
    assert rekognition.list_tags_for_resource(ResourceArn=arn)["Tags"] == {}
    assert rekognition.search_faces_by_image(CollectionId=collection, Image={"Bytes": picture(1)})["FaceMatches"] == []


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    with serving(null_settings(tmp_path_factory.mktemp("seven") / "data")) as running:
        client = running.client()
        for name in "gfedcba":
            client.create_collection(CollectionId=name)
        yield client


class TestListCollections:
    """ListCollections on a server with seven collections."""

    def test_all_are_listed_in_the_order_they_were_made_with_their_model_versions(self, seven):
        """Without MaxResults all come on one page, each with its FaceModelVersion, and no NextToken."""
        answer = seven.list_collections()
        assert answer["CollectionIds"] == list("gfedcba")
        assert answer["FaceModelVersions"] == ["0.1"] * 7
        assert "NextToken" not in answer

    @pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 8, 4096])
    def test_pages_of_any_size_give_every_collection_once(self, seven, size):
        """boto3's own paginator, whatever MaxResults: every collection once, in order; no page is longer than asked for."""
        pages = list(seven.get_paginator("list_collections").paginate(MaxResults=size))
        assert [name for page in pages for name in page["CollectionIds"]] == list("gfedcba")
        assert all(len(page["CollectionIds"]) == len(page["FaceModelVersions"]) <= size for page in pages)
        assert all(page["CollectionIds"] for page in pages)

    def test_max_results_0_means_the_default(self, seven):
        """The model allows MaxResults 0; it counts as absent, not as an endless row of empty pages."""
        assert len(seven.list_collections(MaxResults=0)["CollectionIds"]) == 7

    def test_a_page_goes_on_behind_its_last_row_even_if_that_is_gone(self, make_server):
        """Deleting what was on a page makes the next one neither repeat nor leave out anything."""
        client = make_server().client()
        for name in "abcd":
            client.create_collection(CollectionId=name)
        first = client.list_collections(MaxResults=2)
        client.delete_collection(CollectionId="b")
        client.create_collection(CollectionId="e")
        assert client.list_collections(NextToken=first["NextToken"])["CollectionIds"] == ["c", "d", "e"]

    @pytest.mark.parametrize("token", ["x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "ä", "=" * 8, "A" * 255])
    def test_a_token_that_was_not_given_out_is_refused(self, seven, token):
        """InvalidPaginationTokenException, in AWS's words."""
        with pytest.raises(seven.exceptions.InvalidPaginationTokenException, match="Invalid Pagination Token"):
            seven.list_collections(NextToken=token)

    def test_a_token_of_another_listing_is_refused(self, seven):
        """A token is good for the listing that gave it: collections, or the faces of one collection."""
        seven.index_faces(CollectionId="a", Image={"Bytes": picture(1, 2)})
        seven.index_faces(CollectionId="b", Image={"Bytes": picture(1, 2)})
        faces = seven.list_faces(CollectionId="a", MaxResults=1)["NextToken"]
        collections = seven.list_collections(MaxResults=1)["NextToken"]
        for call in (
            lambda: seven.list_collections(NextToken=faces),
            lambda: seven.list_faces(CollectionId="a", NextToken=collections),
            lambda: seven.list_faces(CollectionId="b", NextToken=faces),
        ):
            with pytest.raises(seven.exceptions.InvalidPaginationTokenException):
                call()


def test_a_token_of_another_deployment_is_refused(make_server):
    """Page tokens are under the deployment's own key."""
    one, other = make_server().client(), make_server().client()
    for client in (one, other):
        for name in "ab":
            client.create_collection(CollectionId=name)
    with pytest.raises(other.exceptions.InvalidPaginationTokenException):
        other.list_collections(NextToken=one.list_collections(MaxResults=1)["NextToken"])


def test_each_answer_on_a_collection_names_its_policy(rekognition):
    """x-aboveboard-policy: the pack in force, at creation and whenever the collection is described."""
    made = rekognition.create_collection(CollectionId="under-public-safety", Tags={"aboveboard:policy": "public-safety"})
    assert made["ResponseMetadata"]["HTTPHeaders"]["x-aboveboard-policy"] == "public-safety"
    described = rekognition.describe_collection(CollectionId="under-public-safety")
    assert described["ResponseMetadata"]["HTTPHeaders"]["x-aboveboard-policy"] == "public-safety"


def test_a_server_with_another_pack_version_does_not_compare_across_versions(own_server, monkeypatch):
    """A collection is pinned to the model version it was made with: indexing and searching it under another one is refused in words."""
    client = own_server.client()
    client.create_collection(CollectionId="old")
    client.index_faces(CollectionId="old", Image={"Bytes": picture(1)})
    card = dataclasses.replace(own_server.app.models.card, model_version="0.2")
    monkeypatch.setattr(own_server.app.gate, "_models", dataclasses.replace(own_server.app.models, card=card))
    object.__setattr__(own_server.app, "models", dataclasses.replace(own_server.app.models, card=card))
    for call in (
        lambda: client.index_faces(CollectionId="old", Image={"Bytes": picture(2)}),
        lambda: client.search_faces_by_image(CollectionId="old", Image={"Bytes": picture(1)}),
    ):
        with pytest.raises(ClientError, match=r"0\.1.*0\.2") as refused:
            call()
        assert refused.value.response["Error"]["Code"] == "InvalidParameterException"
    assert client.describe_collection(CollectionId="old")["FaceModelVersion"] == "0.1"
