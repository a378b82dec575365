"""Operations that take a photograph: detect, compare, index, search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from aboveboard.accountability.operators import Session
from aboveboard.biometrics.vocabulary import ATTRIBUTES, Box, Face
from aboveboard.errors import BadRequest
from aboveboard.rekognition import shapes
from aboveboard.rekognition.operations import Answer, basis_headers, candidates_headers, operation
from aboveboard.service import analyse, enrol, identify
from aboveboard.service.app import App
from aboveboard.service.quality import Shortcoming
from aboveboard.service.samples import Sample, Stored
from aboveboard.storage.collections import FaceRow

REASONS: Mapping[Shortcoming, shapes.Reason] = {
    "poor": "LOW_FACE_QUALITY",
    "small": "SMALL_BOUNDING_BOX",
    "unsure": "LOW_CONFIDENCE",
    "pose": "EXTREME_POSE",
    "dark": "LOW_BRIGHTNESS",
    "blurred": "LOW_SHARPNESS",
    "crowded": "EXCEEDS_MAX_FACES",
    "no_template": "LOW_FACE_QUALITY",
}


@operation("DetectFaces")
def detect_faces(app: App, session: Session, request: shapes.DetectFacesRequest) -> Answer:
    details = _details(request.get("Attributes", []))
    found = analyse.detect(app, session, sample(request["Image"]), details)
    body: shapes.DetectFacesResponse = {"FaceDetails": [face_detail(one) for one in found]}
    return Answer(body, _not_assessed(app, details))


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
    details = _details(request.get("DetectionAttributes", []))
    indexed = enrol.index(
        app,
        session,
        request["CollectionId"],
        sample(request["Image"]),
        external,
        most,
        request.get("QualityFilter", "AUTO"),
        details,
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
    return Answer(body, _not_assessed(app, details))


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
    """A face with the DEFAULT attributes and those that were read of it."""
    detail: shapes.FaceDetail = {
        "BoundingBox": box(face.box),
        "Landmarks": [{"Type": cast("shapes.LandmarkType", mark.name), "X": mark.x, "Y": mark.y} for mark in face.landmarks],
        "Pose": {"Roll": face.pose.roll, "Yaw": face.pose.yaw, "Pitch": face.pose.pitch},
        "Quality": {"Brightness": face.quality.brightness, "Sharpness": face.quality.sharpness},
        "Confidence": face.confidence,
    }
    said = face.attributes
    judgements = {
        "Smile": said.smile, "Eyeglasses": said.eyeglasses, "Sunglasses": said.sunglasses, "Beard": said.beard, "Mustache": said.mustache,
        "EyesOpen": said.eyes_open, "MouthOpen": said.mouth_open, "FaceOccluded": said.face_occluded,
    }  # fmt: skip
    told = {name: {"Value": one.value, "Confidence": one.confidence} for name, one in judgements.items() if one is not None}
    detail.update(cast("shapes.FaceDetail", told))
    if said.age_range is not None:
        detail["AgeRange"] = {"Low": said.age_range[0], "High": said.age_range[1]}
    if said.gender is not None:
        detail["Gender"] = {"Value": said.gender.value, "Confidence": said.gender.confidence}
    if said.emotions is not None:
        detail["Emotions"] = [{"Type": cast("shapes.EmotionName", name), "Confidence": sure} for name, sure in said.emotions]
    if said.eye_direction is not None:
        gaze = said.eye_direction
        detail["EyeDirection"] = {"Yaw": gaze.yaw, "Pitch": gaze.pitch, "Confidence": gaze.confidence}
    return detail


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


def _details(attributes: Sequence[shapes.Attribute]) -> analyse.Details:
    """What a request asks for beside DEFAULT, which is always answered."""
    if "ALL" in attributes:
        return analyse.ALL
    return analyse.Details(frozenset(name for name in ATTRIBUTES if name.upper() in attributes))


def _not_assessed(app: App, details: analyse.Details) -> dict[str, str]:
    """AWS's model cannot say 'not assessed', so a header does."""
    missing = analyse.not_assessed(app, details)
    return {"x-aboveboard-not-assessed": ",".join(name.upper() for name in missing)} if missing else {}
