"""Our errors -> AWS codes: the one table."""

from __future__ import annotations

from aboveboard import errors

CODES: tuple[tuple[type[errors.Error], str, int], ...] = (
    (errors.BadPageToken, "InvalidPaginationTokenException", 400),
    (errors.TokenReused, "IdempotentParameterMismatchException", 400),
    (errors.NoFace, "InvalidParameterException", 400),
    (errors.BadRequest, "InvalidParameterException", 400),
    (errors.SampleTooLarge, "ImageTooLargeException", 400),
    (errors.SampleUnreachable, "InvalidS3ObjectException", 400),
    (errors.UnsupportedSample, "InvalidImageFormatException", 400),
    (errors.BadSample, "InvalidImageFormatException", 400),
    (errors.NoSuchOperation, "UnknownOperationException", 400),
    (errors.NoSuch, "ResourceNotFoundException", 400),
    (errors.Conflict, "ConflictException", 400),
    (errors.Exists, "ResourceAlreadyExistsException", 400),
    (errors.Busy, "ThrottlingException", 400),
    (errors.TooFast, "ThrottlingException", 400),
    (errors.Refused, "AccessDeniedException", 400),
    (errors.TooMuch, "ServiceQuotaExceededException", 400),
    (errors.Unavailable, "InternalServerError", 500),
)
"""First match wins: a subclass stands before its parent."""


def code_of(error: errors.Error) -> tuple[str, int]:
    """AWS's error code and HTTP status of one of our errors."""
    if isinstance(error, errors.Unauthenticated):
        return error.reason, 400
    for kind, code, status in CODES:
        if isinstance(error, kind):
            return code, status
    return "InternalServerError", 500
