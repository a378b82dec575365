"""Page tokens: where a listing goes on, under the deployment's key, good for that listing only."""

from __future__ import annotations

import base64
import binascii
import hmac

from aboveboard.errors import BadPageToken
from aboveboard.storage.secrets import Keyring

DEFAULT_PAGE = 1000


def token(keyring: Keyring, listing: str, after: int) -> str:
    """A token that continues `listing` behind row `after`; at most 60 characters, whatever the listing's name."""
    position = after.to_bytes(8, "big")
    return base64.urlsafe_b64encode(position + _mark(keyring, listing, position)).decode()


def position(keyring: Keyring, listing: str, given: str | None) -> int:
    """The row that a token continues behind, 0 without one; raises BadPageToken for a token that is not this listing's."""
    if not given:
        return 0
    try:
        raw = base64.b64decode(given, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not hmac.compare_digest(raw[8:], _mark(keyring, listing, raw[:8])):
        raise BadPageToken("Invalid Pagination Token")
    return int.from_bytes(raw[:8], "big")


def _mark(keyring: Keyring, listing: str, position: bytes) -> bytes:
    return keyring.mark("page", listing.encode(), position)[:16]
