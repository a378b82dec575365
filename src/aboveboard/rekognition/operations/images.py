"""Operations that take a photograph: detect, compare, index, search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from aboveboard.accountability.operators import Session
from aboveboard.biometrics.vocabulary import Box, Face
from aboveboard.errors import BadRequest
from aboveboard.rekognition import shapes
from aboveboard.rekognition.operations import Answer, basis_headers, candidates_headers, operation
from aboveboard.service import analyse, enrol, identify
from aboveboard.service.app import App
from aboveboard.service.samples import Sample, Stored
from aboveboard.storage.collections import FaceRow

REASONS: Mapping[analyse.Shortcoming, shapes.Reason] = {
    "small": "SMALL_BOUNDING_BOX",
    "unsure": "LOW_CONFIDENCE",
    "pose": "EXTREME_POSE",
    "dark": "LOW_BRIGHTNESS",
    "blurred": "LOW_SHARPNESS",
    "crowded": "EXCEEDS_MAX_FACES",
    "no_template": "LOW_FACE_QUALITY",
}
NOT_YET_ASSESSED = (
    "AGE_RANGE", "BEARD", "EMOTIONS", "EYE_DIRECTION", "EYEGLASSES", "EYES_OPEN", "FACE_OCCLUDED",
    "GENDER", "MOUTH_OPEN", "MUSTACHE", "SMILE", "SUNGLASSES",
)  # fmt: skip


@operation("DetectFaces")
def detect_faces(app: App, session: Session, request: shapes.DetectFacesRequest) -> Answer:
    found = analyse.detect(app, session, sample(request["Image"]))
    body: shapes.DetectFacesResponse = {"FaceDetails": [face_detail(one) for one in found]}
    return Answer(body, _not_assessed(request.get("Attributes", [])))


@operation("CompareFaces")
def compare_faces(app: App, session: Session, request: shapes.CompareFacesRequest) -> Answer:
    compared = identify.compare(
        app,
        session,
        sample(request["SourceImage"]),
        sample(request["TargetImage"]),
        request.get("SimilarityThreshold"),
        request.get("QualityFilter", "NONE"),
    )
    body: shapes.CompareFacesResponse = {
        "SourceImageFace": {"BoundingBox": box(compared.source.box), "Confidence": compared.source.confidence},
        "FaceMatches": [{"Similarity": candidate.similarity, "Face": _compared_face(face)} for candidate, face in compared.similar],
        "UnmatchedFaces": [_compared_face(face) for face in compared.others],
    }
    return Answer(body, basis_headers(compared.candidates.audit_id, compared.candidates.basis))


@operation("IndexFaces")
def index_faces(app: App, session: Session, request: shapes.IndexFacesRequest) -> Answer:
    external = request.get("ExternalImageId")
    most = min(request.get("MaxFaces", analyse.MOST_FACES), analyse.MOST_FACES)
    indexed = enrol.index(
        app,
        session,
        request["CollectionId"],
        sample(request["Image"]),
        external,
        most,
        request.get("QualityFilter", "AUTO"),
    )
    body: shapes.IndexFacesResponse = {
        "FaceRecords": [
            {
                "Face": _stored_face(one.face_id, one.face.box, one.image_id, external, one.face.confidence, indexed.model_version),
                "FaceDetail": face_detail(one.face),
            }
            for one in indexed.enrolled
        ],
        "UnindexedFaces": [
            {"Reasons": [REASONS[reason] for reason in reasons], "FaceDetail": face_detail(face)}
            for face, reasons in indexed.failures_to_enrol
        ],
        "FaceModelVersion": indexed.model_version,
    }
    return Answer(body, _not_assessed(request.get("DetectionAttributes", [])))


@operation("SearchFacesByImage")
def search_faces_by_image(app: App, session: Session, request: shapes.SearchFacesByImageRequest) -> Answer:
    searched = identify.by_image(
        app,
        session,
        request["CollectionId"],
        sample(request["Image"]),
        request.get("FaceMatchThreshold"),
        request.get("MaxFaces", identify.DEFAULT_CANDIDATES),
        request.get("QualityFilter", "NONE"),
    )
    assert searched.probe is not None
    body: shapes.SearchFacesByImageResponse = {
        "SearchedFaceBoundingBox": box(searched.probe.box),
        "SearchedFaceConfidence": searched.probe.confidence,
        "FaceMatches": _face_matches(app, searched),
        "FaceModelVersion": app.models.card.model_version,
    }
    return Answer(body, candidates_headers(searched.candidates))


@operation("SearchFaces")
def search_faces(app: App, session: Session, request: shapes.SearchFacesRequest) -> Answer:
    limit = request.get("MaxFaces", identify.DEFAULT_CANDIDATES)
    searched = identify.by_face(app, session, request["CollectionId"], request["FaceId"], request.get("FaceMatchThreshold"), limit)
    body: shapes.SearchFacesResponse = {
        "SearchedFaceId": request["FaceId"],
        "FaceMatches": _face_matches(app, searched),
        "FaceModelVersion": app.models.card.model_version,
    }
    return Answer(body, candidates_headers(searched.candidates))


def sample(image: shapes.Image) -> Sample:
    """The photograph of a request, exactly one of Bytes and S3Object; an object is read later, by the service, once it may be."""
    if ("Bytes" in image) == ("S3Object" in image):
        raise BadRequest("the image needs either Bytes or S3Object, and not both")
    if "Bytes" in image:
        return image["Bytes"]
    stored = image["S3Object"]
    if "Bucket" not in stored or "Name" not in stored:
        raise BadRequest("S3Object needs Bucket and Name")
    return Stored(stored["Bucket"], stored["Name"], stored.get("Version"))


def face_detail(face: Face) -> shapes.FaceDetail:
    """A face with the DEFAULT attributes."""
    return {
        "BoundingBox": box(face.box),
        "Landmarks": [{"Type": cast("shapes.LandmarkType", mark.name), "X": mark.x, "Y": mark.y} for mark in face.landmarks],
        "Pose": {"Roll": face.pose.roll, "Yaw": face.pose.yaw, "Pitch": face.pose.pitch},
        "Quality": {"Brightness": face.quality.brightness, "Sharpness": face.quality.sharpness},
        "Confidence": face.confidence,
    }


def _compared_face(face: Face) -> shapes.ComparedFace:
    detail = face_detail(face)
    return {
        "BoundingBox": detail["BoundingBox"],
        "Confidence": detail["Confidence"],
        "Landmarks": detail["Landmarks"],
        "Pose": detail["Pose"],
        "Quality": detail["Quality"],
    }


def box(value: Box) -> shapes.BoundingBox:
    return {"Width": value.width, "Height": value.height, "Left": value.left, "Top": value.top}


def stored_face(row: FaceRow, model_version: str) -> shapes.Face:
    """An enrolled face; a row whose identity is withheld carries neither ImageId nor ExternalImageId nor UserId."""
    face = _stored_face(row.face_id, row.box, row.image_id or None, row.external_image_id, row.confidence, model_version)
    if row.subject_id is not None:
        face["UserId"] = row.subject_id
    return face


def _stored_face(
    face_id: str, place: Box, image_id: str | None, external: str | None, confidence: float, model_version: str
) -> shapes.Face:
    face: shapes.Face = {
        "FaceId": face_id,
        "BoundingBox": box(place),
        "Confidence": confidence,
        "IndexFacesModelVersion": model_version,
    }
    if image_id is not None:
        face["ImageId"] = image_id
    if external is not None:
        face["ExternalImageId"] = external
    return face


def _face_matches(app: App, searched: identify.Searched) -> list[shapes.FaceMatch]:
    version = app.models.card.model_version
    return [{"Similarity": candidate.similarity, "Face": stored_face(row, version)} for candidate, row in searched.rows]


def _not_assessed(attributes: list[shapes.Attribute]) -> dict[str, str]:
    """AWS's model cannot say 'not assessed', so a header does."""
    asked = NOT_YET_ASSESSED if "ALL" in attributes else [name for name in NOT_YET_ASSESSED if name in attributes]
    return {"x-aboveboard-not-assessed": ",".join(asked)} if asked else {}
