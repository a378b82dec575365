"""The server's certificate: read from two files, checked, taken anew when they change, without a restart."""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from aboveboard.errors import Unavailable

log = logging.getLogger("aboveboard.tls")


class Certificate:
    """A certificate with its chain, and its key, both PEM. `context` is for the listener and never changes; handshakes get the newest pair.

    A new pair is taken as a whole, as a context of its own: loaded into the live one, a broken pair would leave it half changed.
    Raises Unavailable with what to mend where the files are no pair to serve with.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate, self._key = certificate, key
        self._seen = self._stamps()
        self._newest = self._read()
        self.context = self._newest
        self.context.sni_callback = self._hand_over

    async def refresh(self) -> None:
        """Take the files anew if they changed since they were last looked at; what is wrong with them is logged, and the old pair stays."""
        if (stamps := self._stamps()) == self._seen:
            return
        self._seen = stamps
        try:
            self._newest = self._read()
            log.info("the certificate was read anew")
        except Unavailable as error:
            log.error("the new certificate is not taken, the one before stays: %s", error.message)
        except Exception as error:  # whatever it is, it must not end the server
            log.error("the new certificate is not taken, the one before stays: %s", type(error).__name__)

    def _hand_over(self, connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._newest

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        stamps: list[tuple[int, int, int] | None] = []
        for file in (self._certificate, self._key):
            try:
                status = file.stat()
                stamps.append((status.st_mtime_ns, status.st_ino, status.st_size))
            except OSError:
                stamps.append(None)
        return stamps

    def _read(self) -> ssl.SSLContext:
        for file in (self._certificate, self._key):
            try:
                file.read_bytes()
            except OSError as error:
                raise Unavailable(f"the file {file} cannot be read: {error.strerror}") from error
        try:
            first = x509.load_pem_x509_certificates(self._certificate.read_bytes())[0]
            begins, ends = first.not_valid_before_utc, first.not_valid_after_utc
        except (OSError, ValueError) as error:
            raise Unavailable(f"{self._certificate} is no certificate in PEM; name the file that begins with BEGIN CERTIFICATE") from error
        except x509.InvalidVersion as error:
            raise Unavailable(f"{self._certificate} is no certificate of X.509 version 3; have another made") from error
        if ends < (now := datetime.now(UTC)):
            raise Unavailable(f"the certificate {self._certificate} expired on {ends:%Y-%m-%d}; have it renewed")
        if begins > now:
            text = f"the certificate {self._certificate} is not valid before {begins:%Y-%m-%d %H:%M} UTC; wait, or set this machine's clock"
            raise Unavailable(text)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._certificate, self._key, password="")
        except (OSError, ValueError) as error:
            if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
                text = f"the key {self._key} is not the one of the certificate {self._certificate}; name the two files made together"
                raise Unavailable(text) from error
            text = f"{self._key} is no private key in PEM, or an encrypted one; name an unencrypted key that only this user can read"
            raise Unavailable(text) from error
        return context
