"""Which policy packs there are: those that ship, those of the deployment's folder, and who has signed them.

A folder holds packs as `NAME.toml`, signatures as `NAME.sig` (a C2SP signed note of a pack's id, version and sha256) and, one verifier
key a line, `authorities.txt`: whose signatures count. A pack with `extends = "ID"` is an overlay: it has only the keys that it tightens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from aboveboard import strict
from aboveboard.accountability.packs import Pack, moment, read_pack
from aboveboard.accountability.verify_ledger import open_note, read_key
from aboveboard.errors import BadRequest, NoSuch, Unavailable

AUTHORITIES = "authorities.txt"
HEADING = "aboveboard policy pack"


@dataclass(frozen=True)
class Signature:
    """An authority's signed note about one pack."""

    authority: str
    note: bytes


def statement(pack: Pack) -> str:
    """The text that an authority signs: which pack, in which version, with which canonical form."""
    return f"{HEADING}\n{pack.id}\n{pack.version}\n{pack.sha256}\n"


def shipped() -> Iterator[tuple[str, str]]:
    """File name and text of the packs that ship."""
    for file in (resources.files("aboveboard.accountability") / "policies").iterdir():
        if file.name.endswith(".toml"):
            yield file.name, file.read_text()


def read_text(file: Path) -> str:
    """The text of a pack's file; raises BadRequest where it is none."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{file.name} is not text in UTF-8") from error


class Policies:
    """Every pack by id and version; the deployment's default and its minimum. Raises BadRequest for what cannot be loaded.

    Without a default and a minimum packs can be read and compared, and nothing stands under any.
    """

    def __init__(self, default: str, minimum: str, folder: Path | None = None) -> None:
        files = dict(shipped())
        own = {file.name: read_text(file) for file in sorted(folder.glob("*.toml"))} if folder else {}
        self._versions: dict[str, list[Pack]] = {}
        self._compared: dict[tuple[str, str], bool] = {}
        waiting = [(name, strict.parse(text, name)) for name, text in [*files.items(), *own.items()]]
        # An overlay may stand on another, whatever their names.
        while waiting:
            known = {pack.id for pack in self.all()}
            ready = [(name, raw) for name, raw in waiting if "extends" not in raw or raw["extends"] in known]
            if not ready:
                raise BadRequest(f"{waiting[0][0]}: it extends '{waiting[0][1]['extends']}', which is no pack; known are {_names(known)}")
            waiting = [one for one in waiting if one not in ready]
            for name, raw in ready:
                self._add(self.read(raw, name), name)
        self.signatures = _signatures(folder, list(self.all())) if folder else {}
        # Compared over every purpose and offence, which takes milliseconds: once.
        self._loosened = {pack.sha256: text for pack in self.all() if (text := self.loosened(pack))}
        self.default_id, self.minimum_id = default, minimum
        for name in filter(None, (default, minimum)):
            self.check(name)
        if default and not all(one.is_at_least_as_strict_as(self.get(minimum)) for one in self._versions[default]):
            raise BadRequest(f"settings: default_policy '{default}' is looser than minimum_policy '{minimum}'; choose a stricter default")

    def all(self) -> Iterator[Pack]:
        """Every version of every pack."""
        for versions in self._versions.values():
            yield from versions

    def ids(self) -> list[str]:
        return sorted(self._versions)

    def get(self, pack: str, at: str = "") -> Pack:
        """The version of a pack that is in force at a time (RFC 3339), else the newest, which then says that it is not; raises NoSuch.

        Of two that are in force the one that came into force later stands.
        """
        if pack not in self._versions:
            raise NoSuch(f"there is no policy pack '{pack}'; known are {_names(self._versions)}")
        versions = self._versions[pack]
        return next((one for one in reversed(versions) if at and one.is_effective(at)), versions[-1])

    def is_loadable(self, pack: Pack) -> bool:
        """Whether a pack may be put in force: an authority that this deployment trusts has signed it, or it needs no signature.

        A template needs one, and a version that is looser than the one before it.
        """
        return pack.sha256 in self.signatures or (pack.status == "published" and pack.sha256 not in self._loosened)

    def loosened(self, pack: Pack) -> str:
        """The rules in which a pack is looser than the version of it that is in force before; empty where none is, or there is none."""
        known = self._versions.get(pack.id, [])
        before = known[: known.index(pack)] if pack in known else [one for one in known if _begins(one) <= _begins(pack)]
        return _names(pack.looser_than(before[-1])) if before else ""

    def check(self, pack: str) -> None:
        """Raise NoSuch for an unknown pack, BadRequest for a template, or a looser version, that no authority has signed."""
        self.get(pack)
        for one in self._versions[pack]:
            if self.is_loadable(one):
                continue
            if one.status == "published":
                text = f"version {one.version} of the policy pack '{pack}' loosens the rules {self._loosened[one.sha256]} of the one before"
                raise BadRequest(
                    f"{text}; tighten it, give it an id of its own, or have an authority sign it: aboveboard policy sign {pack}"
                )
            text = f"the policy pack '{pack}' is a template and unverified; it comes into force once an authority has signed it"
            raise BadRequest(f"{text}: aboveboard policy sign {pack}")

    def default(self, at: str) -> Pack:
        """The pack that what has no tag stands under: the default or, at a time when that is looser, the minimum."""
        return self.of(None, at)

    def minimum(self, at: str) -> Pack:
        return self.get(self.minimum_id, at)

    def of(self, tag: str | None, at: str) -> Pack:
        """The pack that a collection stands under: its tag's, else the default. A tag looser than the minimum yields the minimum.

        Raises Unavailable where its tag names a pack that is not there, or no longer signed: without its rules nothing is searched.
        """
        try:
            if tag is not None:
                self.check(tag)
            pack = self.get(self.default_id if tag is None else tag, at)
        except (NoSuch, BadRequest) as error:
            raise Unavailable(f"the collection's policy cannot be loaded: {error.message}") from error
        minimum = self.minimum(at)
        # Compared over every purpose and offence, which takes milliseconds: once.
        pair = pack.sha256, minimum.sha256
        if pair not in self._compared:
            self._compared[pair] = pack.is_at_least_as_strict_as(minimum)
        return pack if self._compared[pair] else minimum

    def _add(self, pack: Pack, name: str) -> None:
        versions = self._versions.setdefault(pack.id, [])
        if any(one.version == pack.version for one in versions):
            raise BadRequest(f"{name}: there is a pack '{pack.id}' of version {pack.version} already; give it another version or id")
        versions.append(pack)
        versions.sort(key=_begins)

    def read(self, raw: Mapping[str, Any], name: str) -> Pack:
        """The pack in a file's table: a whole one, or an overlay of one of these. It is not added.

        Raises BadRequest, naming the rules, where an overlay loosens any, or says of a template that it is none.
        """
        if "extends" not in raw:
            return read_pack(raw, name)
        base = self.get(str(raw["extends"]))
        own = {key: value for key, value in raw.items() if key != "extends"}
        if own.get("id", base.id) == base.id:
            raise BadRequest(f"{name}: an overlay needs an id of its own, and a version")
        pack = read_pack(_merged(base.plain(), own), name)
        if looser := list(pack.looser_than(base)):
            raise BadRequest(f"{name}: it loosens the rules {_names(looser)} of '{base.id}'; an overlay may only tighten")
        if base.status == "unverified" != pack.status:
            raise BadRequest(f"{name}: '{base.id}' is a template, and so is an overlay of it; leave status out, and have it signed")
        if not _lies_within(pack, base):
            raise BadRequest(f"{name}: it is in force when '{base.id}' is not; narrow effective_from and effective_to")
        return pack


def _begins(pack: Pack) -> datetime:
    return moment(pack.effective_from or "0001-01-02")


def _lies_within(pack: Pack, base: Pack) -> bool:
    starts = not base.effective_from or bool(pack.effective_from and moment(pack.effective_from) >= moment(base.effective_from))
    return starts and (not base.effective_to or bool(pack.effective_to and moment(pack.effective_to) <= moment(base.effective_to)))


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Tables key by key; everything else, lists too, is replaced."""
    merged = dict(base)
    for key, value in own.items():
        is_table = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merged(base[key], value) if is_table else value
    return merged


def _signatures(folder: Path, packs: list[Pack]) -> dict[str, Signature]:
    """The signatures in a folder, by the sha256 of what they sign. Raises BadRequest for one that does not hold, or of nobody known."""
    file = folder / AUTHORITIES
    keys = [line for line in read_text(file).splitlines() if line.strip() and not line.startswith("#")] if file.is_file() else []
    found = {}
    for signature in sorted(folder.glob("*.sig")):
        note = signature.read_bytes()
        signed = list(_held(note, keys, signature.name))
        heading, id_, version, sha256, *_ = [*note.decode(errors="replace").split("\n"), "", "", ""]
        if heading != HEADING or not signed:
            raise BadRequest(f"{signature.name}: no authority of {AUTHORITIES} has signed it; remove it, or add the authority's key")
        if not any((pack.id, pack.version, pack.sha256) == (id_, version, sha256) for pack in packs):
            text = f"{signature.name}: it signs version {version} of '{id_}' as {sha256}, and there is no such pack"
            raise BadRequest(f"{text}; was the pack changed after it was signed?")
        found[sha256] = Signature(signed[0], note)
    return found


def _held(note: bytes, keys: Iterable[str], where: str) -> Iterator[str]:
    """The names of the authorities whose signatures of a note hold."""
    for key in keys:
        try:
            name = read_key(key)[0]
        except ValueError as error:
            raise BadRequest(f"{AUTHORITIES}: {error}") from error
        try:
            open_note(note, key)
        except ValueError as error:
            if "does not hold" in str(error):
                raise BadRequest(f"{where}: the signature of {name} does not hold; the file was changed") from error
        else:
            yield name


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
