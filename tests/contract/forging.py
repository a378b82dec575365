"""What somebody could do to a defence's packet: each takes its folder and changes it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil

from aboveboard.biometrics.calibration import Calibration
from aboveboard.service import packet, packet_evidence, packet_page


def tampered(change):
    def apply(folder):
        told = json.loads((folder / "packet.json").read_text())
        change(told)
        (folder / "packet.json").write_text(json.dumps(told))

    return apply


def forge_ratios(folder):
    """A calibration whose ratios are lower, and all that follows from them."""
    told = json.loads((folder / "packet.json").read_text())
    (file,) = (folder / "calibrations").iterdir()
    text = re.sub(r'"log10_lr": 5[.0-9]*', '"log10_lr": 1.0', re.sub(r'"log10_low": [-.0-9]*', '"log10_low": -5.0', file.read_text()))
    file.write_text(text)
    told["evidence"] = packet_evidence.of_record(told["record"], {file.stem: Calibration.from_json(text)})
    assert told["evidence"][0]["most"] == 10
    (folder / "packet.json").write_text(json.dumps(told))
    (folder / "packet.html").write_text(packet_page.page(told))


def renamed(face):
    """A packet for another face, or for none, on its page too."""

    def apply(folder):
        tampered(lambda told: told.update(face=face))(folder)
        again(folder)

    return apply


def closed_again(folder):
    """No candidate is the named face any more, in the record and on the page."""
    tampered(lambda told: [parts.pop("candidate 1", None) for parts in told["keys"].values()])(folder)
    again(folder)


def rewrite(name, old, new):
    def apply(folder):
        file = next(iter(sorted(folder.glob(name))))
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return apply


def without_calibration(folder):
    """A packet as those that carried none were, but for its entries."""
    told = json.loads((folder / "packet.json").read_text())
    shutil.rmtree(folder / "calibrations")
    told["calibrations"] = {}
    del told["evidence"]
    (folder / "packet.json").write_text(json.dumps(told))
    (folder / "packet.html").write_text(packet_page.page(told))


def passed_off(folder):
    """The same without its own entry, as if it were an earlier one."""
    told = json.loads((folder / "packet.json").read_text())
    own = sorted((folder / "proofs").iterdir())[-1]
    assert "packet.made" in own.read_text()
    own.unlink()
    entries = [json.loads(json.loads(file.read_text())["entry"]) for file in sorted((folder / "proofs").iterdir())]
    told["record"] = packet.of_entries(entries, told["keys"])
    (folder / "packet.json").write_text(json.dumps(told))
    without_calibration(folder)


def twice(folder):
    """A proof that is there under two names, and a record that says so."""
    (folder / "proofs" / "000000000000.json").write_text(sorted((folder / "proofs").iterdir())[2].read_text())
    again(folder)


def again(folder):
    """The record anew, out of whatever proofs are there."""
    told = json.loads((folder / "packet.json").read_text())
    entries = sorted(
        (json.loads(json.loads(file.read_text())["entry"]) for file in (folder / "proofs").iterdir()), key=lambda one: one["seq"]
    )
    told["record"] = packet.of_entries(entries, told["keys"])
    (folder / "packet.json").write_text(json.dumps(told))
    (folder / "packet.html").write_text(packet_page.page(told))


def other_calibration(folder):
    """A calibration more, which no look names."""
    (file,) = (folder / "calibrations").iterdir()
    told, text = json.loads((folder / "packet.json").read_text()), file.read_text().replace('"date"', '"day"', 1)
    (folder / "calibrations" / "another.json").write_text(text)
    told["calibrations"][hashlib.sha256(text.encode()).hexdigest()] = Calibration.from_json(text).provenance
    (folder / "packet.json").write_text(json.dumps(told))
    (folder / "packet.html").write_text(packet_page.page(told))
