"""Signed notes (https://c2sp.org/signed-note) under an Ed25519 key: written here, opened by accountability.verify_ledger.

A signer's key file is one line as Go's sumdb/note has it: `PRIVATE+KEY+name+id+base64`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aboveboard.errors import BadRequest, Exists

ED25519 = b"\x01"
PRIVATE = "PRIVATE+KEY+"


class Signer:
    """Signs notes under a name."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self.name, self._key = name, key
        public = ED25519 + key.public_key().public_bytes_raw()
        self._id = hashlib.sha256(name.encode() + b"\n" + public).digest()[:4]
        self.verifier_key = f"{name}+{self._id.hex()}+{base64.b64encode(public).decode()}"
        """The public key in the signed note's format: what others keep."""

    def sign(self, text: str) -> bytes:
        """The note of a text, which ends with a newline."""
        signature = base64.b64encode(self._id + self._key.sign(text.encode())).decode()
        return f"{text}\n— {self.name} {signature}\n".encode()

    @staticmethod
    def make(name: str, file: Path) -> Signer:
        """A new key in a new file of mode 0600. Raises BadRequest for a name that no note can carry, Exists where there is a file."""
        if not re.fullmatch(r"[^\s+]{1,100}", name):
            raise BadRequest(f"'{name}' cannot name a key; use up to 100 signs, neither spaces nor +, such as legislature.example.org")
        key = Ed25519PrivateKey.generate()
        signer = Signer(name, key)
        seed = base64.b64encode(ED25519 + key.private_bytes_raw()).decode()
        try:
            opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise Exists(f"{file} is there already; name a new file") from error
        with os.fdopen(opened, "w") as new:
            new.write(f"{PRIVATE}{name}+{signer._id.hex()}+{seed}\n")
            new.flush()
            os.fsync(new.fileno())
        return signer

    @staticmethod
    def read(file: Path) -> Signer:
        """The key in a file; raises BadRequest where there is none."""
        try:
            name, key_id, encoded = file.read_text().strip().removeprefix(PRIVATE).split("+", 2)
            raw = base64.b64decode(encoded, validate=True)
            signer = Signer(name, Ed25519PrivateKey.from_private_bytes(raw.removeprefix(ED25519)))
            if signer._id.hex() != key_id:
                raise ValueError("its id is another key's")
        except OSError as error:
            raise BadRequest(f"{file} cannot be read ({error.strerror}); make a key with: aboveboard policy key NAME FILE") from error
        except ValueError as error:
            raise BadRequest(f"{file} holds no signing key; make one with: aboveboard policy key NAME FILE") from error
        return signer
