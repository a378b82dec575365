"""Operations on collections, their faces and their tags."""

from __future__ import annotations

import re
from datetime import datetime

from aboveboard.accountability.operators import Session
from aboveboard.errors import BadRequest
from aboveboard.rekognition import pages, shapes
from aboveboard.rekognition.operations import Answer, operation
from aboveboard.rekognition.operations.images import stored_face
from aboveboard.service import enrol, galleries
from aboveboard.service.app import App

_ARN = re.compile(r"arn:aws[a-z-]*:rekognition:[a-z0-9-]+:\d{12}:collection/([a-zA-Z0-9_.\-]{1,255})")


@operation("CreateCollection")
def create_collection(app: App, session: Session, request: shapes.CreateCollectionRequest) -> Answer:
    made = galleries.create(app, session, request["CollectionId"], request.get("Tags", {}))
    body: shapes.CreateCollectionResponse = {
        "StatusCode": 200,
        "CollectionArn": _arn(app, made.id),
        "FaceModelVersion": made.model_version,
    }
    return Answer(body, {"x-aboveboard-policy": app.gate.policy_of(made).id})


@operation("DescribeCollection")
def describe_collection(app: App, session: Session, request: shapes.DescribeCollectionRequest) -> Answer:
    collection = galleries.describe(app, session, request["CollectionId"])
    body: shapes.DescribeCollectionResponse = {
        "FaceCount": collection.face_count,
        "FaceModelVersion": collection.model_version,
        "CollectionARN": _arn(app, collection.id),
        "CreationTimestamp": datetime.fromisoformat(collection.created_at),
        "UserCount": collection.subject_count,
    }
    return Answer(body, {"x-aboveboard-policy": app.gate.policy_of(collection).id})


@operation("ListCollections")
def list_collections(app: App, session: Session, request: shapes.ListCollectionsRequest) -> Answer:
    size = request.get("MaxResults") or pages.DEFAULT_PAGE
    after = pages.position(app.keyring, "collections", request.get("NextToken"))
    rows = galleries.page(app, session, after, size + 1)
    body: shapes.ListCollectionsResponse = {
        "CollectionIds": [row[1] for row in rows[:size]],
        "FaceModelVersions": [row[2] for row in rows[:size]],
    }
    if len(rows) > size:
        body["NextToken"] = pages.token(app.keyring, "collections", rows[size - 1][0])
    return Answer(body, {})


@operation("DeleteCollection")
def delete_collection(app: App, session: Session, request: shapes.DeleteCollectionRequest) -> Answer:
    galleries.delete(app, session, request["CollectionId"])
    body: shapes.DeleteCollectionResponse = {"StatusCode": 200}
    return Answer(body, {})


@operation("ListFaces")
def list_faces(app: App, session: Session, request: shapes.ListFacesRequest) -> Answer:
    collection = galleries.describe(app, session, request["CollectionId"])
    size = request.get("MaxResults") or pages.DEFAULT_PAGE
    # A token is good for the listing that it was given for.
    listing = f"faces/{collection.n}/{request.get('UserId', '')}"
    after = pages.position(app.keyring, listing, request.get("NextToken"))
    rows = galleries.faces(app, session, collection, after, size + 1, request.get("FaceIds", []), request.get("UserId"))
    body: shapes.ListFacesResponse = {
        "Faces": [stored_face(row, collection.model_version) for row in rows[:size]],
        "FaceModelVersion": collection.model_version,
    }
    if len(rows) > size:
        body["NextToken"] = pages.token(app.keyring, listing, rows[size - 1].n)
    return Answer(body, {})


@operation("DeleteFaces")
def delete_faces(app: App, session: Session, request: shapes.DeleteFacesRequest) -> Answer:
    removed = enrol.remove(app, session, request["CollectionId"], request["FaceIds"])
    gone = set(removed.face_ids)
    body: shapes.DeleteFacesResponse = {
        "DeletedFaces": list(removed.face_ids),
        "UnsuccessfulFaceDeletions": [_undeleted(face_id, removed) for face_id in dict.fromkeys(request["FaceIds"]) if face_id not in gone],
    }
    return Answer(body, {})


def _undeleted(face_id: str, removed: enrol.Removed) -> shapes.UnsuccessfulFaceDeletion:
    if face_id not in removed.of_subjects:
        return {"FaceId": face_id, "Reasons": ["FACE_NOT_FOUND"]}
    kept: shapes.UnsuccessfulFaceDeletion = {"FaceId": face_id, "Reasons": ["ASSOCIATED_TO_AN_EXISTING_USER"]}
    if owner := removed.of_subjects[face_id]:
        kept["UserId"] = owner
    return kept


@operation("TagResource")
def tag_resource(app: App, session: Session, request: shapes.TagResourceRequest) -> Answer:
    galleries.tag(app, session, _collection_id(request["ResourceArn"]), request["Tags"])
    return Answer({}, {})


@operation("UntagResource")
def untag_resource(app: App, session: Session, request: shapes.UntagResourceRequest) -> Answer:
    galleries.untag(app, session, _collection_id(request["ResourceArn"]), request["TagKeys"])
    return Answer({}, {})


@operation("ListTagsForResource")
def list_tags_for_resource(app: App, session: Session, request: shapes.ListTagsForResourceRequest) -> Answer:
    body: shapes.ListTagsForResourceResponse = {"Tags": dict(galleries.tags(app, session, _collection_id(request["ResourceArn"])))}
    return Answer(body, {})


def _arn(app: App, collection_id: str) -> str:
    return f"arn:aws:rekognition:{app.settings.region}:{app.settings.account}:collection/{collection_id}"


def _collection_id(arn: str) -> str:
    found = _ARN.fullmatch(arn)
    if found is None:
        raise BadRequest("ResourceArn must be a collection's ARN, such as DescribeCollection answers; nothing else carries tags here")
    return found[1]
