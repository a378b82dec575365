"""A study as a folder: what was measured, every table and figure made of it, and a manifest with which anybody makes them again.

What was measured lies in `inputs/`; all else is computed from it and from the manifest's parameters, and `verify` computes it again.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from aboveboard import __version__
from aboveboard.errors import BadRequest
from aboveboard.evaluation import facial_analysis, false_matches, gallery_sizes
from aboveboard.evaluation.findings import Report
from aboveboard.evaluation.run import Progress
from aboveboard.evaluation.searching import Engine, Protocolled, gather, pictures_of
from aboveboard.reporting.page import PAGE, TABLES, Notice, Page, write
from aboveboard.reporting.tables import json_of

MANIFEST, INPUTS, FORMAT = "manifest.json", "inputs", 1
_KEYS = {
    "format": int,
    "study": str,
    "valid": bool,
    "invalid_because": list,
    "parameters": dict,
    "versions": dict,
    "inputs": dict,
    "outputs": dict,
}
ANSWERED = "answered"
"""Where an endpoint's answers are kept until the study is whole."""
_FOLDERS = ("tables", "figures", INPUTS, ANSWERED)
LIBRARIES = ("numpy", "scipy", "matplotlib", "onnxruntime", "opencv-python-headless")
Files = Mapping[str, bytes]

MAKERS: Mapping[str, Callable[[Mapping[str, Any], Files], Report]] = {
    "false-matches": false_matches.findings,
    "false-matches-published": gallery_sizes.published,
    "facial-analysis": facial_analysis.findings,
}
"""By name, what makes findings of a study's parameters and inputs."""


@dataclass(frozen=True)
class Written:
    """A study that was written: its findings, and where."""

    findings: Report
    folder: Path


def make(kind: str, parameters: Mapping[str, Any], inputs: Files, folder: Path) -> Written:
    """Compute a study from its inputs and write its folder; the same inputs and parameters give the same tables and figures.

    What an earlier study left in `folder` is replaced. Raises BadRequest where something else is there.
    """
    check_folder(folder)
    # What the manifest keeps is what counts: numbers as JSON has them.
    kept = json.loads(json_of(parameters))
    found = MAKERS[kind](kept, inputs)
    made = _page(found, kind).files()
    manifest = {
        "format": FORMAT,
        "study": kind,
        "valid": not found.invalid,
        "invalid_because": list(found.invalid),
        "parameters": kept,
        "versions": {
            "aboveboard": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in LIBRARIES},
        },
        "inputs": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(inputs.items())},
        "outputs": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(made.items())},
    }
    for old in (*_FOLDERS[:2], INPUTS):
        shutil.rmtree(folder / old, ignore_errors=True)
    # Photographs of people are among it: a repository that the folder lies in shall not take them by accident.
    write({".gitignore": b"*\n", **{f"{INPUTS}/{name}": content for name, content in inputs.items()}, **made}, folder)
    write({MANIFEST: json_of(manifest)}, folder)
    return Written(found, folder)


def check_folder(folder: Path) -> None:
    """Raise BadRequest where a study cannot be written into `folder` because it holds something else than an earlier one."""
    if folder.exists() and (
        not folder.is_dir() or {one.name for one in folder.iterdir()} - {PAGE, TABLES, *_FOLDERS, MANIFEST, ".gitignore"}
    ):
        raise BadRequest(f"{folder} holds something else than a study; name a new folder")


def false_match_study(
    engine: Engine,
    who: Protocolled,
    labels: Mapping[str, Mapping[str, str]],
    parameters: Mapping[str, Any],
    folder: Path,
    progress: Progress,
    with_pictures: bool = True,
) -> Written:
    """Run the searches and write the study; `parameters` has `thresholds`, `by` and `data`. Every false match is kept as a picture."""
    inputs, source = gather(engine, who, labels, progress)
    finite = [one["similarity"] for one in parameters["thresholds"] if one["similarity"] is not None]
    if with_pictures and finite:
        pairs = false_matches.false_pairs(false_matches.read(inputs), min(finite))
        inputs |= pictures_of([(probe, reference) for probe, reference, _ in pairs], who)
    return make("false-matches", {**parameters, "source": source}, inputs, folder)


def verify(folder: Path) -> tuple[int, list[str]]:
    """Compute a study's folder again from its inputs: how many files were compared, and what differs, one line each.

    Drawings are compared where the same matplotlib drew them, else held against the manifest. Raises BadRequest where there is no study.
    """
    manifest = _read_manifest(folder)
    faults, inputs = [], {}
    for name, sha256 in manifest["inputs"].items():
        content = _read(folder, f"{INPUTS}/{name}")
        if content is None or hashlib.sha256(content).hexdigest() != sha256:
            faults.append(f"{INPUTS}/{name}: {'is missing' if content is None else 'is not the file that the manifest names'}")
        inputs[name] = content or b""
    try:
        found = MAKERS[manifest["study"]](manifest["parameters"], inputs)
        made = _page(found, manifest["study"]).files()
    except (BadRequest, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return len(inputs), [*faults, f"the inputs make no report: {error}"]
    if manifest["invalid_because"] != list(found.invalid) or manifest["valid"] == bool(found.invalid):
        faults.append(f"{MANIFEST}: what it says of the run's validity is not what follows from it")
    same_drawings = manifest["versions"].get("matplotlib") == metadata.version("matplotlib")
    page_drawn = {name for name in made if name.startswith("figures/") or name.endswith(".html")}
    for name, content in made.items():
        there = _read(folder, name)
        if there is None:
            faults.append(f"{name}: is missing")
        elif same_drawings or name not in page_drawn:
            faults += [f"{name}: other numbers follow from the inputs"] * (there != content)
        else:
            faults += [f"{name}: is not the file that the manifest names"] * (
                hashlib.sha256(there).hexdigest() != manifest["outputs"].get(name)
            )
    return len(inputs) + len(made), faults


def _page(found: Report, kind: str) -> Page:
    """The findings' page, with what makes them invalid on top."""
    notices = tuple(Notice(f"This run is invalid: {reason}. Its figures must not be quoted.", "warning") for reason in found.invalid)
    footer = (
        f"{found.page.footer} Made by aboveboard {__version__}, study {kind}. Every number of this page can be computed again from the "
        "folder it lies in: aboveboard study verify FOLDER."
    )
    return replace(found.page, blocks=(*notices, *found.page.blocks), footer=footer.strip())


def _read_manifest(folder: Path) -> dict[str, Any]:
    text = _read(folder, MANIFEST)
    if text is None:
        raise BadRequest(f"{folder} holds no {MANIFEST}; name the folder of a study")
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or any(not isinstance(manifest.get(key), kind) for key, kind in _KEYS.items()):
        raise BadRequest(f"{folder / MANIFEST} is not the manifest of a study; make one with: aboveboard study")
    if manifest["format"] != FORMAT or manifest["study"] not in MAKERS:
        raise BadRequest(f"{folder / MANIFEST} is of a study or a format that this version does not know")
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in manifest["inputs"]):
        raise BadRequest(f"{folder / MANIFEST} names files outside the folder")
    return manifest


def _read(folder: Path, name: str) -> bytes | None:
    try:
        return (folder / name).read_bytes()
    except OSError:
        return None
