"""Signed checkpoints of the ledger, one file each: a C2SP checkpoint (origin, size, root) as a signed note under the deployment's key.

https://c2sp.org/tlog-checkpoint, https://c2sp.org/signed-note
"""

from __future__ import annotations

import base64
import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aboveboard.errors import Unavailable
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.notes import Signer
from aboveboard.storage.secrets import Keyring

SUFFIX = ".checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """The ledger at one size: how many entries, the root over them (32 bytes), the signed note, and the file that holds it."""

    size: int
    root: bytes
    note: bytes
    file: Path


class Checkpoints:
    """A folder of signed checkpoints, which may lie on another disk or machine. No file in it is ever overwritten or removed."""

    def __init__(self, ledger: Ledger, keyring: Keyring, folder: Path, *, is_own: bool) -> None:
        """`is_own`: the folder is the deployment's own, made where it lacks; another, perhaps a disk that is not there now, is not made."""
        self.folder = folder
        self._ledger, self._is_own = ledger, is_own
        key = keyring.signing_key("ledger checkpoints")
        public = key.public_key().public_bytes_raw()
        self.origin = f"aboveboard/{hashlib.sha256(public).hexdigest()[:16]}"
        self._signer = Signer(self.origin, key)
        self.verifier_key = self._signer.verifier_key
        """The public key in the signed note's format: what an outsider keeps."""

    def write(self) -> Checkpoint:
        """Sign the ledger as it is now and keep that in a file of its own, unless there is one. Raises Unavailable if it cannot be kept."""
        size, root = self._ledger.checkpoint()
        note = self.sign(size, root)
        file = self.folder / f"{size:012d}-{root.hex()[:8]}{SUFFIX}"
        try:
            if self._is_own:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Created, never renamed or replaced: a folder that can only be added to is enough.
            with suppress(FileExistsError), file.open("xb", buffering=0) as new:
                new.write(note)
                os.fsync(new.fileno())
        except OSError as error:
            mend = "make that folder writable, or name another with the setting 'checkpoints'"
            raise Unavailable(f"the checkpoint {file} cannot be written ({error.strerror}); {mend}") from error
        return Checkpoint(size, root, note, file)

    def sign(self, size: int, root: bytes) -> bytes:
        """The signed note over the first `size` entries, which have this root."""
        return self._signer.sign(f"{self.origin}\n{size}\n{base64.b64encode(root).decode()}\n")

    def files(self) -> list[Path]:
        """The files of all checkpoints that the folder holds, smallest first."""
        return sorted(self.folder.glob(f"*{SUFFIX}"))
