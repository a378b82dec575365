"""Tags over the wire, and the seventh lock: the policy sticks."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError
from kit import null_settings, serving

POLICY = "aboveboard:policy"


@pytest.fixture
def arn(rekognition, collection):
    return rekognition.describe_collection(CollectionId=collection)["CollectionARN"]


def code(caught):
    return caught.value.response["Error"]["Code"]


def test_tags_are_added_overwritten_and_removed(rekognition, arn):
    """TagResource adds and overwrites, UntagResource removes and passes over keys that are not there."""
    assert rekognition.list_tags_for_resource(ResourceArn=arn)["Tags"] == {}
    rekognition.tag_resource(ResourceArn=arn, Tags={"owner": "archive", "größe": "½ + ü @/=:._-", "empty": ""})
    rekognition.tag_resource(ResourceArn=arn, Tags={"owner": "press"})
    assert rekognition.list_tags_for_resource(ResourceArn=arn)["Tags"] == {"owner": "press", "größe": "½ + ü @/=:._-", "empty": ""}
    rekognition.untag_resource(ResourceArn=arn, TagKeys=["owner", "unknown"])
    assert rekognition.list_tags_for_resource(ResourceArn=arn)["Tags"] == {"größe": "½ + ü @/=:._-", "empty": ""}


def test_tags_given_at_creation_are_there(rekognition):
    """CreateCollection's Tags are the collection's first tags."""
    made = rekognition.create_collection(CollectionId="tagged", Tags={"retention": "30 d"})
    assert rekognition.list_tags_for_resource(ResourceArn=made["CollectionArn"])["Tags"] == {"retention": "30 d"}


def test_any_region_and_account_may_stand_in_the_arn(rekognition, arn, collection):
    """The collection's id is what counts: scripts carry the ARNs of their AWS account."""
    foreign = f"arn:aws:rekognition:ap-south-1:999999999999:collection/{collection}"
    rekognition.tag_resource(ResourceArn=foreign, Tags={"a": "b"})
    assert rekognition.list_tags_for_resource(ResourceArn=arn)["Tags"] == {"a": "b"}


def test_a_200_first_tag_is_the_last(rekognition, arn):
    """At most 200 tags: the 201st is refused as AWS refuses it, and nothing of that request is kept."""
    rekognition.tag_resource(ResourceArn=arn, Tags={f"k{i}": "" for i in range(200)})
    with pytest.raises(rekognition.exceptions.ServiceQuotaExceededException):
        rekognition.tag_resource(ResourceArn=arn, Tags={"k0": "changed", "one-too-many": ""})
    kept = rekognition.list_tags_for_resource(ResourceArn=arn)["Tags"]
    assert len(kept) == 200
    assert kept["k0"] == ""
    rekognition.tag_resource(ResourceArn=arn, Tags={"k0": "changed"})
    assert rekognition.list_tags_for_resource(ResourceArn=arn)["Tags"]["k0"] == "changed"


@pytest.mark.parametrize(
    "foreign",
    [
        "arn:aws:rekognition:us-east-1:000000000000:project/p/1234567890",
        "arn:aws:s3:::bucket-of-somebody-else",
        "not an arn, but 20 characters long",
        "arn:aws:rekognition:us-east-1:000000000000:collection/",
        "arn:aws:rekognition:us-east-1:000000000000:collection/a b",
    ],
)
def test_what_is_no_collections_arn_is_refused(rekognition, foreign):
    """Only collections carry tags here."""
    for call in (
        lambda: rekognition.tag_resource(ResourceArn=foreign, Tags={"a": "b"}),
        lambda: rekognition.untag_resource(ResourceArn=foreign, TagKeys=["a"]),
        lambda: rekognition.list_tags_for_resource(ResourceArn=foreign),
    ):
        with pytest.raises(rekognition.exceptions.InvalidParameterException, match="ResourceArn"):
            call()


def test_the_policy_tag_takes_force_at_once_and_only_tightens(server, rekognition, collection, arn):
    """general -> public-safety is allowed and in the ledger; back again, by overwriting or removing, is refused, on record."""
    before = server.entry_count()
    rekognition.tag_resource(ResourceArn=arn, Tags={POLICY: "public-safety", "note": "x"})
    (tagged,) = server.entries(before)
    assert (tagged["type"], tagged["collection"], tagged["tags"]) == ("collection.tagged", collection, {POLICY: "public-safety"})
    assert tagged["operator"] == "first"
    assert (
        rekognition.describe_collection(CollectionId=collection)["ResponseMetadata"]["HTTPHeaders"]["x-aboveboard-policy"]
        == "public-safety"
    )
    for call in (
        lambda: rekognition.tag_resource(ResourceArn=arn, Tags={POLICY: "general"}),
        lambda: rekognition.untag_resource(ResourceArn=arn, TagKeys=["note", POLICY]),
    ):
        before = server.entry_count()
        with pytest.raises(rekognition.exceptions.AccessDeniedException, match=r"public-safety/policy\.tighten"):
            call()
        (refused,) = server.entries(before)
        assert (refused["type"], refused["duty"], refused["collection"]) == ("refused", "collection.tag", collection)
        assert refused["rule"] == "public-safety/policy.tighten"
    assert rekognition.list_tags_for_resource(ResourceArn=arn)["Tags"] == {POLICY: "public-safety", "note": "x"}


def test_naming_the_pack_in_force_again_changes_nothing(rekognition, arn):
    """As strict as before is strict enough."""
    rekognition.tag_resource(ResourceArn=arn, Tags={POLICY: "public-safety"})
    rekognition.tag_resource(ResourceArn=arn, Tags={POLICY: "public-safety"})
    assert rekognition.list_tags_for_resource(ResourceArn=arn)["Tags"] == {POLICY: "public-safety"}


def test_a_policy_tag_that_says_the_default_may_go(rekognition, arn, server):
    """Removing a tag that names the deployment's own default loosens nothing; it is in the ledger all the same."""
    rekognition.tag_resource(ResourceArn=arn, Tags={POLICY: "general"})
    before = server.entry_count()
    rekognition.untag_resource(ResourceArn=arn, TagKeys=[POLICY])
    assert [entry["type"] for entry in server.entries(before)] == ["collection.tagged"]
    assert rekognition.list_tags_for_resource(ResourceArn=arn)["Tags"] == {}


@pytest.mark.parametrize("tags", [{POLICY: "no-such-pack"}, {"aboveboard:retention": "x"}, {"aboveboard:": ""}, {POLICY: ""}])
def test_unknown_reserved_tags_and_packs_are_refused(rekognition, arn, tags):
    """A tag that looks like a rule but would not be one is refused, at creation too, and no collection is left behind."""
    with pytest.raises(ClientError) as refused:
        rekognition.tag_resource(ResourceArn=arn, Tags=tags)
    assert code(refused) == "InvalidParameterException"
    with pytest.raises(ClientError) as refused:
        rekognition.create_collection(CollectionId="never-made", Tags=tags)
    assert code(refused) == "InvalidParameterException"
    with pytest.raises(rekognition.exceptions.ResourceNotFoundException):
        rekognition.describe_collection(CollectionId="never-made")


@pytest.mark.parametrize("role", ["enroller", "investigator", "reviewer", "auditor"])
def test_only_an_admin_tags_and_makes_collections(server, collection, arn, role):
    """Changing rules and collections needs the admin role; everybody may read them. The refusal is recorded."""
    key = server.operator(f"tagger-{role}", role)
    client = server.client(key)
    for call in (
        lambda: client.tag_resource(ResourceArn=arn, Tags={"a": "b"}),
        lambda: client.untag_resource(ResourceArn=arn, TagKeys=["a"]),
        lambda: client.create_collection(CollectionId=f"by-{role}"),
        lambda: client.delete_collection(CollectionId=collection),
    ):
        before = server.entry_count()
        with pytest.raises(client.exceptions.AccessDeniedException, match="needs the role admin"):
            call()
        (refused,) = server.entries(before)
        assert (refused["type"], refused["rule"], refused["operator"]) == ("refused", "general/roles", f"tagger-{role}")
    assert client.list_tags_for_resource(ResourceArn=arn)["Tags"] == {}


def test_no_collection_is_made_looser_than_the_minimum(make_server):
    """minimum_policy binds the whole deployment: a looser tag is refused, an untagged collection stands under the default."""
    server = make_server(default_policy="public-safety", minimum_policy="public-safety")
    client = server.client()
    with pytest.raises(client.exceptions.AccessDeniedException, match=r"public-safety/policy\.tighten"):
        client.create_collection(CollectionId="loose", Tags={POLICY: "general"})
    made = client.create_collection(CollectionId="untagged")
    assert made["ResponseMetadata"]["HTTPHeaders"]["x-aboveboard-policy"] == "public-safety"


def test_raising_the_minimum_binds_collections_that_were_made_before(make_server, tmp_path):
    """A collection tagged `general` stands under the minimum as soon as the settings raise it."""
    folder = tmp_path / "kept"
    with serving(null_settings(folder)) as first:
        first.client().create_collection(CollectionId="old", Tags={POLICY: "general"})
        first.operator("admin", "admin")
        key = first.operator("admin2", "admin")
    with serving(null_settings(folder, default_policy="public-safety", minimum_policy="public-safety"), key) as second:
        described = second.client().describe_collection(CollectionId="old")
        assert described["ResponseMetadata"]["HTTPHeaders"]["x-aboveboard-policy"] == "public-safety"
