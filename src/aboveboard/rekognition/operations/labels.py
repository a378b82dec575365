"""The operation that says what a photograph shows."""

from __future__ import annotations

from collections.abc import Sequence

from aboveboard.accountability.operators import Session
from aboveboard.rekognition import shapes
from aboveboard.rekognition.operations import FIRST, Answer, operation
from aboveboard.rekognition.operations.images import box, sample
from aboveboard.service import labels
from aboveboard.service.app import App
from aboveboard.vision.colours import Colour
from aboveboard.vision.labelling import Filter


@operation("DetectLabels")
def detect_labels(app: App, session: Session, request: shapes.DetectLabelsRequest) -> Answer:
    features = request.get("Features") or ["GENERAL_LABELS"]
    settings = request.get("Settings", {})
    chosen = settings.get("GeneralLabels", {})
    wanted = labels.Wanted(
        "GENERAL_LABELS" in features,
        "IMAGE_PROPERTIES" in features,
        request.get("MinConfidence", labels.LEAST_CONFIDENCE),
        request.get("MaxLabels", labels.MOST_LABELS),
        Filter(
            frozenset(chosen.get("LabelInclusionFilters", [])),
            frozenset(chosen.get("LabelCategoryInclusionFilters", [])),
            frozenset(chosen.get("LabelExclusionFilters", [])),
            frozenset(chosen.get("LabelCategoryExclusionFilters", [])),
        ),
        settings.get("ImageProperties", {}).get("MaxDominantColors", labels.MOST_COLOURS),
    )
    described = labels.describe(app, session, sample(request["Image"]), wanted)
    body: shapes.DetectLabelsResponse = {}
    if described.labels is not None and described.model_version is not None:
        body["Labels"] = [_label(one) for one in described.labels]
        body["LabelModelVersion"] = described.model_version
    if described.properties is not None:
        measures = described.properties.measures
        body["ImageProperties"] = {
            "Quality": {"Brightness": measures.brightness, "Sharpness": measures.sharpness, "Contrast": measures.contrast},
            "DominantColors": _colours(described.properties.colours),
        }
    unknown = [name for name in described.unknown if name.isascii()][:FIRST]
    return Answer(body, {"x-aboveboard-unknown-labels": ", ".join(unknown)} if unknown else {})


def _label(one: labels.Label) -> shapes.Label:
    return {
        "Name": one.name,
        "Confidence": one.confidence,
        "Instances": [_instance(instance) for instance in one.instances],
        "Parents": [{"Name": name} for name in sorted(one.parents)],
        "Aliases": [{"Name": name} for name in one.aliases],
        "Categories": [{"Name": one.category}],
    }


def _instance(one: labels.Instance) -> shapes.Instance:
    instance: shapes.Instance = {"BoundingBox": box(one.box), "Confidence": one.confidence}
    if one.colours:
        instance["DominantColors"] = _colours(one.colours)
    return instance


def _colours(found: Sequence[Colour]) -> list[shapes.DominantColor]:
    return [
        {
            "Red": one.red,
            "Blue": one.blue,
            "Green": one.green,
            "HexCode": f"#{one.red:02x}{one.green:02x}{one.blue:02x}",
            "CSSColor": one.css,
            "SimplifiedColor": one.simple,
            "PixelPercent": 100 * one.share,
        }
        for one in found
    ]
