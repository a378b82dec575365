"""Keys at rest: one master key in a file of its own; everything else is derived from it or sealed under it."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aboveboard.errors import Unavailable


class Keyring:
    """Seals secrets (AES-256-GCM) and makes keyed marks (HMAC-SHA256), each purpose under its own key derived by HKDF (RFC 5869)."""

    def __init__(self, master: bytes) -> None:
        self._master = master
        self._derived: dict[str, bytes] = {}

    @staticmethod
    def open(file: Path, *, create: bool) -> Keyring:
        """The keyring in `file`; made there (mode 0600) if `create` and absent. Raises Unavailable where it is missing or damaged."""
        if create and not file.exists():
            try:
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                # Whole or not at all, and never over another process's: two first starts at once agree on one key.
                with NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.") as new:
                    new.write(os.urandom(32))
                    new.flush()
                    os.fsync(new.fileno())
                    with suppress(FileExistsError):
                        os.link(new.name, file)
            except OSError as error:
                raise Unavailable(f"the master key {file} cannot be written: {error.strerror}") from error
        try:
            master = file.read_bytes()
        except OSError as error:
            raise Unavailable(f"the master key {file} cannot be read ({error.strerror}); put it back from your backup") from error
        if len(master) != 32:
            raise Unavailable(f"the master key {file} is damaged ({len(master)} bytes, not 32); put it back from your backup")
        return Keyring(master)

    def _key(self, purpose: str) -> bytes:
        if purpose not in self._derived:
            hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=f"aboveboard:{purpose}".encode())
            self._derived[purpose] = hkdf.derive(self._master)
        return self._derived[purpose]

    def signing_key(self, purpose: str) -> Ed25519PrivateKey:
        """The deployment's own key to sign with, for one purpose."""
        return Ed25519PrivateKey.from_private_bytes(self._key(purpose))

    def seal(self, secret: bytes, purpose: str, owner: str) -> bytes:
        """`secret` encrypted for one purpose and owner: nonce, ciphertext, tag."""
        nonce = os.urandom(12)
        return nonce + AESGCM(self._key(purpose)).encrypt(nonce, secret, owner.encode())

    def unseal(self, sealed: bytes, purpose: str, owner: str) -> bytes:
        """What was sealed; raises Unavailable where the key is another or the bytes were changed."""
        try:
            return AESGCM(self._key(purpose)).decrypt(sealed[:12], sealed[12:], owner.encode())
        except InvalidTag as error:
            raise Unavailable(f"a sealed {purpose} does not open with this master key; was master.key replaced?") from error

    def mark(self, purpose: str, *parts: bytes) -> bytes:
        """A 32-byte mark that nobody without the key can make or check. Parts are length-prefixed, so that they cannot run together."""
        return self._mac(purpose, parts).digest()

    def marks(self, purpose: str, shared: Iterable[bytes], last: Iterable[bytes]) -> Iterator[bytes]:
        """The marks of `shared` parts with each of the last parts; the shared ones, which may be long, are hashed once."""
        begun = self._mac(purpose, shared)
        for part in last:
            yield _add(begun.copy(), part).digest()

    def _mac(self, purpose: str, parts: Iterable[bytes]) -> hmac.HMAC:
        mac = hmac.new(self._key(purpose), digestmod=hashlib.sha256)
        for part in parts:
            _add(mac, part)
        return mac


def _add(mac: hmac.HMAC, part: bytes) -> hmac.HMAC:
    mac.update(len(part).to_bytes(8, "big"))
    mac.update(part)
    return mac
