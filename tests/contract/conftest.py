"""What the tests of re-indexing start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit import Server
from reindexing import photographs, with_other_pack


@pytest.fixture
def old(own_server: Server) -> Server:
    """A server on the null pack, with the pack that its collection is re-indexed into beside it."""
    return with_other_pack(own_server)


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    """The photographs that its faces come from."""
    return photographs(tmp_path / "originals")
