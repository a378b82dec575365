"""The verbs backup, restore and doctor: what keeps a deployment."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from aboveboard import settings as configuration
from aboveboard.cli.common import DONE, NOTHING, Data, Json, OperatorName, advice, counted, open_as, out, printable, show_json

NO_MODELS = "null"
"""The pack with which these verbs open a deployment: they need no model, and work where none is installed."""
_COLOURS = {"well": "green", "wrong": "red", "note": "yellow"}


def backup(
    to: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the backup.")],
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Leave the master key out; keep it elsewhere: nothing can be restored without it.")
    ] = False,
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Copy the deployment into a new folder, as it is now, while a server runs and writes.

    The copy has names, templates and, unless left out, the master key: treat it as the photographs themselves.
    """
    from aboveboard.service import keep

    app, session = open_as(data, operator, NO_MODELS)
    pages = sum(file.stat().st_size for file in app.settings.data.glob(keep.DATABASE)) // 4096
    with counted("copying pages", pages) as done:
        made = keep.backup(
            app, session, to.absolute(), configuration.load(data).pack, with_keys=not without_keys, progress=lambda now, _: done(now)
        )
    app.database.close()
    if as_json:
        show_json({"backup": str(to), **asdict(made), "has_key": made.has_key})
        return
    size = sum(one.bytes for one in made.files)
    out().print(f"{to} holds {', '.join(one.file for one in made.files)}: {size / 1e6:,.1f} MB, checked")
    typer.echo(f"ledger: {made.size:,} entries, root {made.root}")
    key = f"and the master key{'' if made.has_key else ' is NOT in it: keep it elsewhere, nothing can be restored without it'}"
    out().print(f"it has names and templates, {key}; anybody who can read it can read them", style="yellow")
    out().print(f"the model pack '{made.pack}' is not in it; its settings may name folders that are not either", style="dim")


def restore(
    backup_folder: Annotated[Path, typer.Argument(metavar="DIR", help="The backup.")],
    replace: Annotated[bool, typer.Option("--replace", help="Put the deployment that is there aside, within its folder.")] = False,
    master_key: Annotated[Path | None, typer.Option("--master-key", metavar="FILE", help="The key of a backup without keys.")] = None,
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Put a backup into a data folder that has no deployment yet, or in the place of the one that is there.

    Every byte is checked before anything is changed. Whoever acts must be an admin in the backup; its record says so. A restore that
    was interrupted while it changed the folder is ended by the same verb, whatever DIR is.
    """
    from aboveboard.service import keep

    folder = configuration.data_folder(data)
    if keep.finish(folder):
        _say(f"ended the restore of {folder} that was interrupted; nothing was read from {backup_folder}", as_json, {"is_ended": True})
        return
    with keep.prepared(backup_folder, folder, master_key, replace_old=replace) as (stage, manifest):
        app, session = open_as(stage, operator, NO_MODELS)
        keep.admit(app, session, manifest)
        pack = configuration.load(stage).pack
        app.database.close()
        gone = keep.undone(folder, manifest) if (folder / keep.DATABASE).exists() else None
        aside = keep.put_in_place(stage, folder)
    document = {"data": str(folder), "made_at": manifest.made_at, "size": manifest.size, "root": manifest.root, "pack": pack}
    _say(f"{folder} is as it was at {manifest.made_at}", as_json, {**document, "aside": str(aside) if aside else None, "undone": gone})
    if as_json:
        return
    if aside:
        out().print(f"what was there is in {aside}: remove it once you do not need it, it holds faces and names", style="yellow")
        out().print(_undone(gone), style="yellow")
    out().print(f"it needs the model pack '{pack}'; see: {advice('doctor', data)}", style="dim")


def _undone(gone: dict[str, int] | None) -> str:
    if gone is None:
        return "what was deleted or revoked since the backup is back, and the record before cannot tell what that is"
    if not gone:
        return "nothing was deleted or revoked since the backup, as the record before has it"
    what = ", ".join(f"{count:,} {name}" for name, count in gone.items())
    return f"deleted or revoked since the backup, and back now: {what}; the record before says which: delete and revoke them again"


def _say(text: str, as_json: bool, document: dict[str, object]) -> None:
    if as_json:
        show_json(document)
    else:
        out().print(text)


def doctor(data: Data = None, as_json: Json = False) -> None:
    """Examine a deployment, changing nothing: database, ledger, templates, keys, modes, room, leftovers, and whether it keeps its packs.

    It may run beside a server, and on a copy that can only be read. Exit code 1 where something is wrong, or a rule that is enforced is
    not kept; findings about a pack carry the rule's id.
    """
    from aboveboard.service.conformity import compare
    from aboveboard.service.examine import examine

    settings = configuration.load(data)
    found = [*examine(settings), *compare(settings)]
    is_well = all(one.state != "wrong" for one in found)
    if as_json:
        show_json({"is_well": is_well, "findings": [asdict(one) for one in found]})
    else:
        for one in found:
            named = f" ({one.rule})" if one.rule else ""
            typer.echo(f"{one.check:<14} {typer.style(f'{one.state:<5}', _COLOURS[one.state])}  {printable(one.found)}{named}")
            if one.mend:
                typer.echo(f"{'':<22}-> {printable(one.mend)}")
    raise typer.Exit(DONE if is_well else NOTHING)
