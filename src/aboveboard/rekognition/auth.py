"""AWS Signature Version 4: which operator signed this request, and was it changed on the way?"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote

from aboveboard.errors import Unauthenticated

SERVICE = "rekognition"
WINDOW_S = 300
"""How far x-amz-date may lie from this machine's clock: AWS's five minutes."""
MUST_BE_SIGNED = frozenset({"host", "x-amz-date", "x-amz-target"})
_CREDENTIAL = re.compile(r"([A-Za-z0-9_]{16,128})/(\d{8})/([a-z0-9-]{1,32})/([a-z0-9-]{1,32})/aws4_request")


@dataclass(frozen=True, slots=True)
class Signed:
    """What an Authorization header claims; nothing of it is proved before `verify`."""

    key_id: str
    date: str
    region: str
    headers: tuple[str, ...]
    signature: str
    amz_date: str


def read(headers: Mapping[str, str], now: datetime) -> Signed:
    """The claim of a request's headers (names in lower case); raises Unauthenticated if missing, malformed, stale or signing too little."""
    authorization = headers.get("authorization", "")
    if not authorization:
        raise Unauthenticated("Request is missing Authentication Token", reason="MissingAuthenticationTokenException")
    scheme, _, rest = authorization.partition(" ")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    credential = _CREDENTIAL.fullmatch(parts.get("Credential", ""))
    signature, names = parts.get("Signature", ""), tuple(parts.get("SignedHeaders", "").split(";"))
    if scheme != "AWS4-HMAC-SHA256" or rest.count(",") != 2 or credential is None or not re.fullmatch(r"[0-9a-f]{64}", signature):
        raise _bad("the Authorization header is not AWS4-HMAC-SHA256 with Credential, SignedHeaders and Signature")
    if credential[4] != SERVICE:
        raise _bad(f"Credential should be scoped to correct service: '{SERVICE}'.")
    if missing := sorted(MUST_BE_SIGNED - set(names)):
        raise _bad(f"the headers host, x-amz-date and x-amz-target must be signed; {missing[0]} is not")
    if list(names) != sorted(set(names)) or any(name not in headers for name in names):
        raise _bad("SignedHeaders must name headers of this request, once each, in order")
    amz_date = headers["x-amz-date"]
    try:
        time = datetime.strptime(amz_date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise _bad("x-amz-date must look like 20181126T183000Z") from error
    if credential[2] != amz_date[:8]:
        raise _bad("the date of the Credential is not that of x-amz-date")
    if abs((now - time).total_seconds()) > WINDOW_S:
        raise _bad(f"Signature expired: {amz_date} is more than {WINDOW_S} s from this server's clock {now:%Y%m%dT%H%M%SZ}")
    return Signed(credential[1], credential[2], credential[3], names, signature, amz_date)


def verify(signed: Signed, secret: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> None:
    """Raise Unauthenticated unless the signature is the secret's over this POST request. Compares in constant time."""
    digest = hashlib.sha256(body).hexdigest()
    claimed = headers.get("x-amz-content-sha256", digest)
    lines = [
        "POST",
        _canonical_path(path),
        _canonical_query(query),
        *(f"{name}:{' '.join(headers[name].split())}" for name in signed.headers),
        "",
        ";".join(signed.headers),
        claimed,
    ]
    scope = f"{signed.date}/{signed.region}/{SERVICE}/aws4_request"
    hashed = hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{signed.amz_date}\n{scope}\n{hashed}"
    key = f"AWS4{secret}".encode()
    for part in (signed.date, signed.region, SERVICE, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    expected = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, signed.signature) or not hmac.compare_digest(claimed.encode(), digest.encode()):
        message = "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key."
        raise Unauthenticated(message, reason="InvalidSignatureException")


def _canonical_path(path: str) -> str:
    """The path as it came, without dot segments and doubled slashes, encoded once more: every service but S3 signs it so."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in ("", "."):
            kept.append(part)
    joined = "/" + "/".join(kept)
    return quote(joined + "/" if kept and path.endswith("/") else joined, safe="/~")


def _canonical_query(query: str) -> str:
    pairs = [part.partition("=")[::2] for part in query.split("&") if part]
    encoded = sorted((quote(unquote(name), safe="~"), quote(unquote(value), safe="~")) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


def _bad(message: str) -> Unauthenticated:
    return Unauthenticated(message, reason="InvalidSignatureException")
