"""Operations on users, the people of a collection."""

from __future__ import annotations

from collections.abc import Mapping

from aboveboard.accountability.operators import Session
from aboveboard.errors import BadRequest
from aboveboard.rekognition import pages, shapes
from aboveboard.rekognition.operations import Answer, basis_headers, candidates_headers, operation
from aboveboard.rekognition.operations.images import REASONS, face_detail, sample
from aboveboard.service import galleries, identify, subjects
from aboveboard.service.app import App
from aboveboard.service.identify import SearchedSubjects
from aboveboard.storage.subjects import SubjectRow

_WHY: Mapping[subjects.Reason, shapes.UnsuccessfulFaceAssociationReason] = {
    "unknown": "FACE_NOT_FOUND",
    "another's": "ASSOCIATED_TO_A_DIFFERENT_USER",
    "unlike": "LOW_MATCH_CONFIDENCE",
}
MOST_USERS = 500


@operation("CreateUser")
def create_user(app: App, session: Session, request: shapes.CreateUserRequest) -> Answer:
    subjects.create(app, session, request["CollectionId"], request["UserId"], request.get("ClientRequestToken", ""))
    return Answer({}, {})


@operation("DeleteUser")
def delete_user(app: App, session: Session, request: shapes.DeleteUserRequest) -> Answer:
    subjects.delete(app, session, request["CollectionId"], request["UserId"], request.get("ClientRequestToken", ""))
    return Answer({}, {})


@operation("ListUsers")
def list_users(app: App, session: Session, request: shapes.ListUsersRequest) -> Answer:
    collection = galleries.describe(app, session, request["CollectionId"])
    size = request.get("MaxResults", MOST_USERS)
    listing = f"users/{collection.n}"
    after = pages.position(app.keyring, listing, request.get("NextToken"))
    rows = subjects.page(app, session, collection, after, size + 1)
    body: shapes.ListUsersResponse = {"Users": [{"UserId": row.subject_id, "UserStatus": _status(row.has_faces)} for row in rows[:size]]}
    if len(rows) > size:
        body["NextToken"] = pages.token(app.keyring, listing, rows[size - 1].n)
    return Answer(body, {})


@operation("AssociateFaces")
def associate_faces(app: App, session: Session, request: shapes.AssociateFacesRequest) -> Answer:
    done = subjects.associate(
        app,
        session,
        request["CollectionId"],
        request["UserId"],
        request["FaceIds"],
        request.get("UserMatchThreshold"),
        request.get("ClientRequestToken", ""),
    )
    body: shapes.AssociateFacesResponse = {
        "AssociatedFaces": [{"FaceId": face_id} for face_id in done.face_ids],
        "UnsuccessfulFaceAssociations": [_unassociated(failure) for failure in done.failures],
        "UserStatus": _status(done.has_faces),
    }
    return Answer(body, basis_headers(done.audit_id, done.basis))


@operation("DisassociateFaces")
def disassociate_faces(app: App, session: Session, request: shapes.DisassociateFacesRequest) -> Answer:
    token = request.get("ClientRequestToken", "")
    done = subjects.disassociate(app, session, request["CollectionId"], request["UserId"], request["FaceIds"], token)
    body: shapes.DisassociateFacesResponse = {
        "DisassociatedFaces": [{"FaceId": face_id} for face_id in done.face_ids],
        "UnsuccessfulFaceDisassociations": [_undisassociated(failure) for failure in done.failures],
        "UserStatus": _status(done.has_faces),
    }
    return Answer(body, {})


@operation("SearchUsers")
def search_users(app: App, session: Session, request: shapes.SearchUsersRequest) -> Answer:
    if ("UserId" in request) == ("FaceId" in request):
        raise BadRequest("the search needs either UserId or FaceId, and not both")
    how = request.get("UserMatchThreshold"), request.get("MaxUsers", identify.DEFAULT_CANDIDATES)
    body: shapes.SearchUsersResponse = {"FaceModelVersion": app.models.card.model_version}
    if "FaceId" in request:
        searched = identify.subjects_by_face(app, session, request["CollectionId"], request["FaceId"], *how)
        body["SearchedFace"] = {"FaceId": request["FaceId"]}
    else:
        searched = identify.subjects_by_subject(app, session, request["CollectionId"], request["UserId"], *how)
        body["SearchedUser"] = {"UserId": request["UserId"]}
    body["UserMatches"] = _user_matches(searched)
    return Answer(body, _headers(searched))


@operation("SearchUsersByImage")
def search_users_by_image(app: App, session: Session, request: shapes.SearchUsersByImageRequest) -> Answer:
    searched = identify.subjects_by_image(
        app,
        session,
        request["CollectionId"],
        sample(request["Image"]),
        request.get("UserMatchThreshold"),
        request.get("MaxUsers", identify.DEFAULT_CANDIDATES),
        request.get("QualityFilter", "NONE"),
    )
    body: shapes.SearchUsersByImageResponse = {
        "UserMatches": _user_matches(searched),
        "FaceModelVersion": app.models.card.model_version,
        "UnsearchedFaces": [
            {"FaceDetails": face_detail(one), "Reasons": [REASONS[lack] for lack in lacks] or ["FACE_NOT_LARGEST"]}
            for one, lacks in searched.others
        ],
    }
    if searched.probe is not None:
        body["SearchedFace"] = {"FaceDetail": face_detail(searched.probe)}
    return Answer(body, _headers(searched))


def _headers(searched: SearchedSubjects) -> dict[str, str]:
    return basis_headers(searched.audit_id, None) if searched.candidates is None else candidates_headers(searched.candidates)


def _status(has_faces: bool) -> shapes.UserStatus:
    """Associations stand when they are answered, so that nobody is ever CREATING or UPDATING."""
    return "ACTIVE" if has_faces else "CREATED"


def _user_matches(searched: SearchedSubjects) -> list[shapes.UserMatch]:
    return [{"Similarity": candidate.similarity, "User": _matched_user(row)} for candidate, row in searched.rows]


def _matched_user(row: SubjectRow) -> shapes.MatchedUser:
    """A person found; one whose identity is withheld carries no UserId."""
    user: shapes.MatchedUser = {"UserStatus": _status(row.has_faces)}
    if row.subject_id:
        user["UserId"] = row.subject_id
    return user


def _unassociated(failure: subjects.Failure) -> shapes.UnsuccessfulFaceAssociation:
    answer: shapes.UnsuccessfulFaceAssociation = {"FaceId": failure.face_id, "Reasons": [_WHY[failure.reason]]}
    if failure.subject_id is not None:
        answer["UserId"] = failure.subject_id
    if failure.similarity is not None:
        answer["Confidence"] = failure.similarity
    return answer


def _undisassociated(failure: subjects.Failure) -> shapes.UnsuccessfulFaceDisassociation:
    reason: shapes.UnsuccessfulFaceDisassociationReason = (
        "FACE_NOT_FOUND" if failure.reason == "unknown" else "ASSOCIATED_TO_A_DIFFERENT_USER"
    )
    answer: shapes.UnsuccessfulFaceDisassociation = {"FaceId": failure.face_id, "Reasons": [reason]}
    if failure.subject_id is not None:
        answer["UserId"] = failure.subject_id
    return answer
