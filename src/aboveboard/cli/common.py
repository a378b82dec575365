"""What every verb shares: its options, who acts, exit codes, consoles, JSON, progress."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from aboveboard import settings as configuration
from aboveboard.errors import BadRequest, BadSample, Busy, Error, NoSuch, Refused, TooFast, TooMuch, Unavailable

if TYPE_CHECKING:
    from aboveboard.accountability.operators import AccessKey, Operator, Session
    from aboveboard.service.app import App
    from aboveboard.storage.collections import Collection
    from aboveboard.vision.packs import PackFolder

Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Data folder of the deployment; made there if it is new.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
OperatorName = Annotated[
    str, typer.Option("--operator", metavar="NAME", help="Who acts; must be named where there is more than one operator.")
]

DONE, NOTHING, USAGE, REFUSED, SAMPLE, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
EXIT_CODES: Mapping[int, str] = {
    DONE: "done, candidates or faces found",
    NOTHING: "nothing found: no candidate, or no face; by doctor and what verifies: something is wrong; by evaluate: the run is invalid",
    USAGE: "wrong usage or bad request",
    REFUSED: "refused by a rule, the message names it",
    SAMPLE: "no photograph could be used",
    UNAVAILABLE: "unavailable: ledger, model, port or disk",
    INTERRUPTED: "stopped by Ctrl-C",
}
_CODES: tuple[tuple[type[Error], int], ...] = (
    (Refused, REFUSED),
    (BadSample, SAMPLE),
    (Unavailable, UNAVAILABLE),
    (TooMuch, UNAVAILABLE),
    (TooFast, UNAVAILABLE),
    (Busy, UNAVAILABLE),
    (Error, USAGE),
)


_NARROWEST = 80
"""Columns of a terminal from which on ids stand on one line."""
_WHOLE = ("FaceId", "own pairs", "access key", "photograph and audit id", "face", "yaw/pitch/roll", "light/sharp")


class Verbs(TyperGroup):
    """The verbs; an error that is ours ends in one line on stderr and its exit code, never in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Error as error:
            stop(error.message, next(code for kind, code in _CODES if isinstance(error, kind)))
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            stop(f"{error.filename or 'the disk'}: {error.strerror or error}", UNAVAILABLE)
        except UnicodeEncodeError:
            stop("an argument is not text in UTF-8; write it again", USAGE)


def stop(message: str, code: int) -> NoReturn:
    """End with one line on stderr and an exit code."""
    complain(message)
    raise typer.Exit(code)


def complain(message: str) -> None:
    """One line `error: ...` on stderr."""
    typer.echo(f"error: {' '.join(printable(message).split())}", err=True)


def out() -> Console:
    """The console of results. Names are shown as they are: nothing in them is taken for markup."""
    return Console(markup=False, highlight=False, emoji=False)


def aside() -> Console:
    """The console of everything beside the results: stderr."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def show_json(document: Mapping[str, Any]) -> None:
    """One JSON document on one line of stdout."""
    typer.echo(json.dumps(document, ensure_ascii=False))


def printable(name: str | Path) -> str:
    """A name or text as a terminal may see it: undecodable bytes and control characters replaced."""
    text = os.fsencode(name).decode("utf-8", "replace") if isinstance(name, Path) else name.encode("utf-8", "replace").decode("utf-8")
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\N{REPLACEMENT CHARACTER}" for sign in text)


def program() -> str:
    """How this program was called, to be typed again."""
    called = sys.argv[0]
    if Path(called).name == "__main__.py":
        return "python -m aboveboard"
    if Path(called).name != "aboveboard":
        return "aboveboard"
    found = shutil.which("aboveboard")
    return "aboveboard" if found and Path(found).resolve() == Path(called).resolve() else shlex.quote(os.path.relpath(called))


def advice(verb: str, data: Path | None) -> str:
    """A command to type next, on the same data folder as this one."""
    return f"{program()} {verb}" + (f" --data {shlex.quote(str(data))}" if data else "")


def open_app(data: Path | None, pack: str = "", *, check: bool = False) -> App:
    """The deployment in a data folder, made there if it is new; with another model pack than the one in use, if one is named.

    `check` opens no database that is damaged.
    """
    from aboveboard import bootstrap

    settings = configuration.load(data)
    settings = replace(settings, pack=pack) if pack else settings
    check_installed(settings, data)
    return bootstrap.open_app(settings, check=check)


def check_installed(settings: configuration.Settings, data: Path | None) -> PackFolder:
    """The folder of model packs; raises Unavailable, with what to type, where the pack in use is not installed."""
    from aboveboard.vision.packs import PackFolder

    packs = PackFolder(settings.models)
    try:
        is_installed = packs.is_installed(settings.pack)
    except NoSuch as error:
        raise BadRequest(f"settings: {error.message}") from error
    if not is_installed:
        mend = advice("models install", data)
        raise Unavailable(f"the model pack '{settings.pack}' is not installed in {settings.models}; run: {mend}")
    return packs


def open_as(data: Path | None, operator: str, pack: str = "") -> tuple[App, Session]:
    """The deployment, and a session of the operator who acts in it."""
    app = open_app(data, pack)
    return app, session_of(choose(app, operator, data))


def session_of(operator: Operator) -> Session:
    from aboveboard.accountability.operators import Session

    return Session(operator, "cli", str(uuid.uuid4()), buckets=("*",))


def choose(app: App, name: str, data: Path | None) -> Operator:
    """The named operator; without a name the only one. On a new deployment `first` is made; among several one must be named."""
    known = app.operators.all()
    if name:
        for operator in known:
            if operator.name == name:
                return operator
        adding = advice(f"operator add {shlex.quote(name)} --role ROLE", data)
        raise NoSuch(f"there is no operator '{name}', there is {_names(known)}; add one with: {adding}")
    if not known and (made := app.operators.first(app.gate.policy_of(None))):
        operator, key = made
        for line in [*first_words(operator, app), *key_lines(key, app.settings.region)]:
            typer.echo(line, err=True)
        return operator
    if len(known) == 1:
        return known[0]
    raise BadRequest(f"there are several operators; say who acts with --operator NAME, one of: {_names(known)}")


def _names(operators: Sequence[Operator]) -> str:
    return ", ".join(operator.name for operator in operators) or "none yet"


def listing(data: Path | None) -> str:
    """What to do about a collection that does not exist."""
    return f"see which there are with: {advice('collection list', data)}"


def existing(app: App, collection: str, mend: str) -> Collection:
    """The collection of this name; raises NoSuch in Amazon's words, with what to do about it."""
    try:
        return app.collections.get(collection)
    except NoSuch as error:
        raise NoSuch(f"{error.message}; {mend}") from error


def first_words(operator: Operator, app: App) -> list[str]:
    """What is said when the first operator of a deployment is made."""
    return [
        f"New deployment in {printable(app.settings.data)}: the operator '{operator.name}' holds {roles_text(operator)}.",
        "The secret is shown this once; paste these lines into your program's shell:",
    ]


def roles_text(operator: Operator) -> str:
    return "the roles " + ", ".join(operator.roles) if len(operator.roles) > 1 else f"the role {operator.roles[0]}"


def key_lines(key: AccessKey, region: str) -> list[str]:
    """Lines for a shell that give AWS's SDKs an access key."""
    return [f"export AWS_ACCESS_KEY_ID={key.id}", f"export AWS_SECRET_ACCESS_KEY={key.secret}", *region_lines(region)]


def region_lines(region: str) -> list[str]:
    return [f"export AWS_DEFAULT_REGION={region}", f"export AWS_REGION={region}"]


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")


@contextmanager
def counted(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Progress over `total` things on stderr, with rate and time left; gives a function to be called with how many are done.

    On a terminal it is a bar, elsewhere a line every ten seconds. One thing alone shows nothing.
    """
    console = aside()
    if total < 2:
        yield lambda _: None
    elif console.is_terminal:
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TextColumn("left"), TimeRemainingColumn()]
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        start = last = time.monotonic()

        def say(done: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= 10 and done:
                last = now
                rate = done / (now - start)
                typer.echo(f"{what}: {done:,} of {total:,}, {rate:.1f}/s, {(total - done) / rate:.0f} s left", err=True)

        yield say


@contextmanager
def ctrl_c() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one ends the program at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(_: int, __: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)
        typer.echo("stopping: finishing what is at hand", err=True)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def downloads() -> Iterator[Callable[[str, int, int], None]]:
    """Progress over files that are fetched: give what it yields to vision.registry."""
    console = aside()
    if not console.is_terminal:
        yield lambda name, done, total: typer.echo(f"fetched {_plain(name)}", err=True) if done == total else None
        return
    columns = [TextColumn("{task.description}"), BarColumn(bar_width=20), DownloadColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, Any] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(_plain(name), total=total or None)
            bar.update(tasks[name], completed=done)

        yield show


def _plain(name: str) -> str:
    """A fetched file's name without the hash that an index puts behind it, and not longer than a line has room for."""
    name = name.partition("#")[0]
    return name if len(name) <= 40 else f"{name[:37]}..."


def number(value: float) -> str:
    """A rate as people read it: 0.645, 3.05e-8."""
    text = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    mantissa, sign, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if sign else text


def percent(value: float) -> str:
    """A share as people read it, never rounded to 0 or 100 % where it is neither."""
    shown = 100 * value + 0.0  # no -0
    if 99.9 < shown < 100:
        return "> 99.9 %"
    if 0 < shown < 1e-99:
        return "< 1e-99 %"
    return f"{number(shown)} %"


def columns(*names: str) -> Table:
    """An empty table with these columns; counts stand to the right. Ids stand on one line, or are folded on a narrow terminal."""
    is_wide = out().width >= _NARROWEST
    table = Table(header_style="bold", border_style="dim", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in names:
        is_count = column in ("rank", "faces", "#")
        table.add_column(
            column, justify="right" if is_count else "left", overflow="fold", no_wrap=is_count or (is_wide and column in _WHOLE)
        )
    return table


def check_id(collection: str) -> None:
    """Raise BadRequest for a name that the API does not allow for a collection."""
    if not re.fullmatch(r"[a-zA-Z0-9_.\-]{1,255}", collection):
        raise BadRequest(f"'{collection}' cannot name a collection; use 1 to 255 letters, digits or the signs _ . -")
