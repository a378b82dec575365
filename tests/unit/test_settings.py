"""Settings: defaults, settings.toml, ABOVEBOARD_* variables; what is unknown refuses to start."""

from __future__ import annotations

from pathlib import Path

import pytest

from aboveboard.errors import BadRequest
from aboveboard.settings import Settings, load


def test_defaults_lie_under_the_home_folder():
    """XDG_DATA_HOME, else ~/.local/share; one folder of models for all deployments."""
    chosen = load(None, {"HOME": "/home/x"})
    assert chosen.data == Path("/home/x/.local/share/aboveboard/data")
    assert chosen.models == Path("/home/x/.local/share/aboveboard/models")
    assert load(None, {"HOME": "/home/x", "XDG_DATA_HOME": "/d"}).models == Path("/d/aboveboard/models")
    assert (chosen.pack, chosen.default_policy) == ("yunet-sface", "general")


def test_the_file_overrides_the_default_and_the_variable_the_file(tmp_path):
    """settings.toml of the data folder, then ABOVEBOARD_*."""
    (tmp_path / "settings.toml").write_text('region = "eu-west-1"\naccount = "111111111111"\n')
    chosen = load(tmp_path, {"HOME": "/h", "ABOVEBOARD_ACCOUNT": "222222222222", "ABOVEBOARD_MAX_IMAGE_PIXELS": "1000"})
    assert (chosen.region, chosen.account, chosen.max_image_pixels) == ("eu-west-1", "222222222222", 1000)
    assert chosen.data == tmp_path


def test_the_data_folder_is_the_argument_or_the_variable():
    """--data before ABOVEBOARD_DATA before the default."""
    assert load(None, {"HOME": "/h", "ABOVEBOARD_DATA": "/from/variable"}).data == Path("/from/variable")
    assert load(Path("/given"), {"HOME": "/h", "ABOVEBOARD_DATA": "/from/variable"}).data == Path("/given")


def test_the_package_index_follows_pips(tmp_path):
    """PIP_INDEX_URL, unless ABOVEBOARD_PACKAGE_INDEX says otherwise."""
    assert load(tmp_path, {"HOME": "/h", "PIP_INDEX_URL": "https://mirror/simple"}).package_index == "https://mirror/simple"
    both = {"HOME": "/h", "PIP_INDEX_URL": "https://mirror/simple", "ABOVEBOARD_PACKAGE_INDEX": "https://own/simple"}
    assert load(tmp_path, both).package_index == "https://own/simple"


@pytest.mark.parametrize(
    "text",
    [
        'regoin = "x"',
        'data = "x"',
        "[region]\nx = 1",
        "region = ",
        "\x00",
        'max_image_pixels = "soon"',
        "max_image_pixels = 0",
        'account = "12"',
        'region = "x y"',
        "max_image_pixels = []",
        "region = 1",
        "max_image_pixels = true",
        "max_image_pixels = 1.5",
        'buckets = "{}"\nbuckets = "{}"',
        'buckets = "/srv/photographs"',
        "buckets = []",
        '[buckets]\nab = "/srv"',
        '[buckets]\n"a b c" = "/srv"',
        '[buckets]\nphotographs = "relative"',
        '[buckets]\nphotographs = "/srv\\u0000"',
        "[buckets]\nphotographs = 1",
        '[buckets.photographs]\nfolder = "/srv"',
        's3_endpoint = "127.0.0.1:9000"\ns3_profile = "x"',
        's3_endpoint = "http://key:secret@host"\ns3_profile = "x"',
        's3_endpoint = "http://minio_1:9000"\ns3_profile = "x"',
        's3_endpoint = "http://host/bucket"\ns3_profile = "x"',
        's3_endpoint = "aws"',
        's3_region = ""',
    ],
)
def test_a_file_with_a_fault_refuses_to_start(tmp_path, text):
    """An unknown key, a key that cannot be set there, no TOML, a wrong type: named, with what is known."""
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(BadRequest, match="setting"):
        load(tmp_path, {"HOME": "/h"})


def test_an_unknown_variable_refuses_to_start(tmp_path):
    """ABOVEBOARD_REGOIN is a slip, not a wish."""
    with pytest.raises(BadRequest, match="ABOVEBOARD_REGOIN: unknown setting 'regoin'; known are"):
        load(tmp_path, {"HOME": "/h", "ABOVEBOARD_REGOIN": "x"})


def test_buckets_are_a_table_or_the_same_in_a_variable(tmp_path):
    """[buckets] in the file; ABOVEBOARD_BUCKETS, TOML's inline form, replaces it whole."""
    (tmp_path / "settings.toml").write_text('[buckets]\nphotographs = "/srv/a b"\n"x.y_z" = "/mnt"\n')
    assert load(tmp_path, {"HOME": "/h"}).buckets == {"photographs": Path("/srv/a b"), "x.y_z": Path("/mnt")}
    assert load(tmp_path, {"HOME": "/h", "ABOVEBOARD_BUCKETS": '{other = "/srv"}'}).buckets == {"other": Path("/srv")}
    for text in ("photographs=/srv", "{photographs}", '"/srv"', ""):
        with pytest.raises(BadRequest, match="setting 'buckets'"):
            load(tmp_path, {"HOME": "/h", "ABOVEBOARD_BUCKETS": text})


@pytest.mark.parametrize("endpoint", ["aws", "http://127.0.0.1:9000", "https://s3.example.org/", "http://[::1]:3900", "http://minio"])
def test_an_s3_endpoint_is_aws_or_an_address(tmp_path, endpoint):
    """With the profile whose keys it knows."""
    (tmp_path / "settings.toml").write_text(f's3_endpoint = "{endpoint}"\ns3_profile = "x"\ns3_region = "garage"')
    chosen = load(tmp_path, {"HOME": "/h"})
    assert (chosen.s3_endpoint, chosen.s3_region, chosen.s3_profile) == (endpoint, "garage", "x")


def test_settings_are_frozen():
    """Nothing changes them afterwards."""
    with pytest.raises(AttributeError):
        Settings().region = "x"
