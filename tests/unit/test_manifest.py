"""A protocol as CSV: what is read, and that a mistake is named by file, line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from aboveboard.errors import BadRequest
from aboveboard.evaluation import manifest

GOOD = {
    "enrolled.csv": "path,subject,gender\na.png,Ada,F\nb.png,Bob,M\n",
    "probed.csv": "\ufeffsubject,path,light\nAda,c.png,dark\n\nEve,d.png,\n",
    "pairs.csv": "first,second\nc.png,a.png\nd.png,c.png\n",
}


def folder(tmp_path: Path, **changed: str) -> Path:
    for photograph in "abcd":
        (tmp_path / f"{photograph}.png").write_bytes(b"")
    for name, text in {**GOOD, **{name.replace("_", "."): text for name, text in changed.items()}}.items():
        if text:
            (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_manifest_says_who_is_enrolled_and_probed_and_which_pairs(tmp_path: Path) -> None:
    read = manifest.read(folder(tmp_path))
    assert [(each.name, each.subject, dict(each.labels)) for each in read.photographs] == [
        ("a.png", "Ada", {"gender": "F"}),
        ("b.png", "Bob", {"gender": "M"}),
        ("c.png", "Ada", {"light": "dark"}),
        ("d.png", "Eve", {}),
    ]
    assert read.pairs == ((2, 0), (3, 2))
    assert read.columns == ["gender", "light"]
    assert (len(read.enrolled), len(read.probed), sorted(read.sha256)) == (2, 2, sorted(GOOD))


def test_enrolled_alone_is_a_manifest(tmp_path: Path) -> None:
    read = manifest.read(folder(tmp_path, probed_csv="", pairs_csv=""))
    assert (len(read.enrolled), read.probed, read.pairs) == (2, (), None)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("enrolled_csv", "", "enrolled.csv is not there"),
        ("enrolled_csv", "path,subject\n", "enrolled.csv names no photograph"),
        ("enrolled_csv", "path,gender\na.png,F\n", "enrolled.csv, line 1: has no column 'subject'"),
        ("enrolled_csv", "path,subject,x,x\na.png,Ada,1,2\n", "enrolled.csv, line 1, column 4"),
        ("enrolled_csv", "path,subject\na.png,\n", "enrolled.csv, line 2, column subject: is empty"),
        ("enrolled_csv", "path,subject\na.png,Ada\nz.png,Bob\n", "enrolled.csv, line 3, column path: there is no file"),
        (
            "enrolled_csv",
            "path,subject\na.png,Ada\n\na.png,Ada\n",
            "enrolled.csv, line 4, column path: 'a.png' stands in enrolled.csv, line 2",
        ),
        ("enrolled_csv", 'path,subject\na.png,"Ada\n', "enrolled.csv, line 2"),
        ("enrolled_csv", "path,subject\na.png,Ada,Lovelace\n", "enrolled.csv, line 2: has 3 cells, the header 2"),
        ("enrolled_csv", "path,subject\na.png,A\u0007da\n", "enrolled.csv, line 2, column subject: is longer"),
        ("probed_csv", "path,subject\na.png,Ada\n", "probed.csv, line 2, column path: 'a.png' stands in enrolled.csv, line 2"),
        ("pairs_csv", "first,second,gender\nc.png,a.png,F\n", "pairs.csv, line 1, column 'gender'"),
        ("pairs_csv", "first,second\nc.png,x.png\n", "pairs.csv, line 2, column second: 'x.png' is in neither"),
        ("pairs_csv", "first,second\nc.png,c.png\n", "pairs.csv, line 2, column second: a photograph is paired with itself"),
        ("pairs_csv", "first,second\nc.png,a.png\na.png,c.png\n", "pairs.csv, line 3, column first: this pair stands on line 2 already"),
        ("pairs_csv", "first,second\n", "pairs.csv names no pair"),
    ],
)
def test_a_mistake_is_named_by_file_line_and_column(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        manifest.read(folder(tmp_path, **{name: text}))
    assert said in caught.value.message


def test_what_is_no_utf_8_is_told(tmp_path: Path) -> None:
    made = folder(tmp_path)
    (made / "probed.csv").write_bytes(b"path,subject\nc.png,\xe4\n")
    with pytest.raises(BadRequest, match=r"probed\.csv is not UTF-8"):
        manifest.read(made)
