"""The server: one POST route. Authenticate, parse, call, dump; whatever goes wrong, AWS's error form."""

from __future__ import annotations

import json
import logging
import os
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

from anyio import CapacityLimiter, fail_after, to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from aboveboard.accountability.operators import Credential, Session
from aboveboard.errors import BadRequest, Error, NoSuchOperation, Refused, Unauthenticated
from aboveboard.rekognition import auth, codec
from aboveboard.rekognition.errors import code_of
from aboveboard.rekognition.operations import Handler, offered
from aboveboard.service.app import App

MAX_BODY = 15 * 1024 * 1024
WORKERS = 2 * (os.cpu_count() or 1) + 2
"""Requests worked on at once: enough to keep every core busy while some wait for the disk."""
SMALL_BODY = 1024 * 1024
BODY_TIMEOUT_S = 60
TARGET = "RekognitionService"
CONTENT_TYPE = "application/x-amz-json-1.1"
log = logging.getLogger("aboveboard.server")


def build(app: App) -> ASGIApp:
    """The ASGI application of one deployment."""
    handlers = offered()
    workers = CapacityLimiter(WORKERS)

    async def answer(request: Request) -> Response:
        request_id = str(uuid.uuid4())
        try:
            headers = _headers(request)
            signed = auth.read(headers, datetime.now(UTC))
            if _length(headers) > SMALL_BODY:
                # Read only for a key that exists: nobody else makes the server hold 15 MiB.
                await to_thread.run_sync(_credential, app, signed, limiter=workers)
            with fail_after(BODY_TIMEOUT_S):
                body = await _body(request, headers)
            path = request.scope.get("raw_path") or b"/"
            query = request.scope["query_string"].decode("latin-1")
            work = partial(_answer, app, handlers, signed, headers, path.decode("latin-1"), query, body, request_id)
            return await to_thread.run_sync(work, limiter=workers)
        except TimeoutError:
            return _failure(BadRequest(f"the request body did not come within {BODY_TIMEOUT_S} s; send it again"), request_id)
        except ClientDisconnect:
            return _failure(BadRequest("the client went away"), request_id)
        except Error as error:
            return _failure(error, request_id)
        except Exception:
            log.exception("request %s failed: a defect", request_id)
            return _failure(None, request_id)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "pack": app.models.card.id, "model_version": app.models.card.model_version})

    others = Starlette(routes=[Route("/healthz", health, methods=["GET"]), Route("/{path:path}", answer, methods=["POST"])])

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        # The one route that matters goes past the router and its middleware; `answer` maps every error itself.
        if scope["type"] == "http" and scope["method"] == "POST":
            response = await answer(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await others(scope, receive, send)

    return front


def _headers(request: Request) -> dict[str, str]:
    """The headers by lower-case name; raises BadRequest where one that decides is there twice: a proxy may have read the other."""
    headers: dict[str, str] = {}
    for raw, value in request.scope["headers"]:
        name = raw.decode("latin-1").lower()
        if name in headers and (name in ("authorization", "host", "content-length") or name.startswith("x-amz-")):
            raise BadRequest(f"the header {name[:80]} stands in the request twice; send it once")
        headers[name] = value.decode("latin-1")
    return headers


def _length(headers: Mapping[str, str]) -> int:
    """The announced length of the body; without one, the most there may be."""
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) < 20 else MAX_BODY


def _credential(app: App, signed: auth.Signed) -> Credential:
    """What the key that the request claims stands for; raises Unauthenticated for an unknown key."""
    known = app.operators.by_key(signed.key_id)
    if known is None:
        raise Unauthenticated("The security token included in the request is invalid.", reason="UnrecognizedClientException")
    return known


async def _body(request: Request, headers: Mapping[str, str]) -> bytes:
    too_large = BadRequest(f"the request body is larger than {MAX_BODY} bytes; send a smaller image")
    if _length(headers) > MAX_BODY:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def _answer(
    app: App, handlers: Mapping[str, Handler], signed: auth.Signed, headers: Mapping[str, str],
    path: str, query: str, body: bytes, request_id: str,
) -> Response:  # fmt: skip
    """One request, in a worker thread."""
    known = _credential(app, signed)
    auth.verify(signed, known.secret, path, query, headers, body)
    invocation = headers.get("amz-sdk-invocation-id", "")
    invocation = invocation if re.fullmatch(r"[A-Za-z0-9-]{1,64}", invocation) else ""
    session = Session(known.operator, signed.key_id, request_id, invocation, known.buckets)
    service, _, name = headers.get("x-amz-target", "").partition(".")
    if service != TARGET:
        raise NoSuchOperation(f"X-Amz-Target must be {TARGET}.OPERATION")
    result = _handler(handlers, name)(app, session, codec.parse(name, body))
    content = codec.dump(name, result.body)
    return Response(content, media_type=CONTENT_TYPE, headers={"x-amzn-RequestId": request_id, **result.headers})


def _handler(handlers: Mapping[str, Handler], name: str) -> Handler:
    if name in handlers:
        return handlers[name]
    try:
        codec.operation_model(name)
    except KeyError:
        raise NoSuchOperation(f"Amazon Rekognition has no operation {name[:80]!r}") from None
    raise Refused(f"{name} is not provided by this server; it provides {', '.join(sorted(handlers))}", rule="not-provided")


def _failure(error: Error | None, request_id: str) -> Response:
    code, status = code_of(error) if error else ("InternalServerError", 500)
    message = error.message if error else f"an error inside the server; its log tells more under request {request_id}"
    if status == 500 and error:
        log.error("request %s failed: %s", request_id, message)
    content = json.dumps({"__type": code, "Code": code, "Logref": request_id, "Message": message})
    return Response(content, status, {"x-amzn-RequestId": request_id, "x-amzn-ErrorType": code}, CONTENT_TYPE)
