"""The server: one POST route. Authenticate, parse, call, dump; whatever goes wrong, AWS's error form."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

from anyio import CapacityLimiter, fail_after, move_on_after, to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from aboveboard import memory
from aboveboard.accountability.operators import Credential, Session
from aboveboard.accountability.packs import moment
from aboveboard.errors import BadRequest, Error, NoSuchOperation, Refused, SampleTooLarge, Unauthenticated
from aboveboard.rekognition import auth, codec
from aboveboard.rekognition.errors import code_of
from aboveboard.rekognition.limits import Rates, Shares
from aboveboard.rekognition.operations import Handler, offered
from aboveboard.rekognition.telemetry import Exchange, Listener
from aboveboard.service.app import App
from aboveboard.settings import cores
from aboveboard.storage.database import now

MAX_BODY = 15 * 1024 * 1024
BODY_TIMEOUT_S = 60
LINGER_S = 5
"""How long what still comes of a body is taken once its request was answered (RFC 9112, 9.6)."""
WAIT_UNREAD_S, WAIT_READ_S = 30, 20
"""How long a request waits until its body is read, and then for a worker. The second and twice `Room.WAIT_S` are together less than
the 60 s for which AWS's SDKs wait for an answer."""
TARGET = "RekognitionService"
CONTENT_TYPE = "application/x-amz-json-1.1"
log = logging.getLogger("aboveboard.server")


class Front:
    """The ASGI application of one deployment. `listeners` are told of each request once its answer is made.

    Given `rates` count the requests of several processes.
    """

    def __init__(self, app: App, rates: Rates | None = None) -> None:
        self.listeners: list[Listener] = []
        # Enough workers to keep every core busy while some wait for the disk.
        half = (app.settings.images_at_once or cores()) + 1
        self.workers = Shares("requests", 2 * half, half)
        # Room is taken before the signature can be checked: who knows a key's id alone must leave room for another key's largest body.
        room = app.settings.request_bytes_at_once
        self.bodies = Shares("request bodies", room, max(room - MAX_BODY, MAX_BODY))
        self._app, self._handlers, self._rates = app, offered(), rates or Rates(app.settings.requests_per_second)
        self._threads, self._doors = CapacityLimiter(self.workers.capacity), CapacityLimiter(4)
        self._others = Starlette(
            routes=[Route("/healthz", self._health, methods=["GET"]), Route("/{path:path}", _nothing, methods=["POST"])]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The one route that matters goes past the router and its middleware; every error is mapped here.
        if scope["type"] == "http" and scope["method"] == "POST":
            unread = True

            async def received() -> Message:
                nonlocal unread
                message = await receive()
                unread = message.get("more_body", False)
                return message

            async def sent(message: Message) -> None:
                if unread and message["type"] == "http.response.body":
                    # To close while a body still comes would reset the connection, and take the answer away from who sends it.
                    await send({**message, "more_body": True})
                    with move_on_after(LINGER_S):
                        while unread:
                            await received()
                    message = {**message, "body": b""}
                await send(message)

            response = await self._exchange(Request(scope, received))
            await response(scope, received, sent)
        else:
            await self._others(scope, receive, send)

    async def _health(self, _: Request) -> Response:
        card = self._app.models.card
        return JSONResponse({"status": "ok", "pack": card.id, "model_version": card.model_version})

    async def _exchange(self, request: Request) -> Response:
        start = time.perf_counter()
        exchange = Exchange(str(uuid.uuid4()), "", _address(request), time.time_ns())
        try:
            response = await self._answer(request, exchange)
        except Exception as error:  # `_failure` is the one table of answers to errors, defects among them
            response = _failure(error, exchange)
        if "expect" in request.headers and not exchange.bytes_in:
            response.headers["connection"] = "close"  # whether the body still comes only the client knows
        exchange.seconds, exchange.bytes_out = time.perf_counter() - start, len(response.body)
        for listener in self.listeners:
            listener(exchange)
        return response

    async def _answer(self, request: Request, exchange: Exchange) -> Response:
        headers = _headers(request)
        name = headers.get("x-amz-target", "").removeprefix(f"{TARGET}.")
        exchange.operation = name if name in codec.service_model().operation_names else ""
        exchange.traceparent = headers.get("traceparent", "")
        signed = auth.read(headers, datetime.now(UTC))
        length = _length(headers, exchange.operation)
        # Room is taken and a body read only for a key that exists.
        await to_thread.run_sync(_credential, self._app, signed, limiter=self._doors)
        exchange.key_id = signed.key_id
        gone = request.scope["extensions"]["aboveboard.gone"]
        async with self.bodies.take(signed.key_id, length, WAIT_UNREAD_S, gone):
            with fail_after(BODY_TIMEOUT_S):
                body = await _body(request, exchange.operation)
            exchange.bytes_in = len(body)
            path = request.scope.get("raw_path") or b"/"
            query = request.scope["query_string"].decode("latin-1")
            work = partial(self._work, signed, headers, path.decode("latin-1"), query, body, exchange)
            async with self.workers.take(signed.key_id, 1, WAIT_READ_S, gone):
                return await to_thread.run_sync(work, limiter=self._threads)

    def _work(self, signed: auth.Signed, headers: Mapping[str, str], path: str, query: str, body: bytes, exchange: Exchange) -> Response:
        """One request, in a worker thread. Its errors end here: taken through the event loop they would keep its photograph alive."""
        try:
            known = _credential(self._app, signed)  # again: it may have been revoked while the body came
            auth.verify(signed, known.secret, path, query, headers, body)
            self._rates.spend(signed.key_id)
            invocation = headers.get("amz-sdk-invocation-id", "")
            invocation = invocation if re.fullmatch(r"[A-Za-z0-9-]{1,64}", invocation) else ""
            case = None if known.case is None else self._app.cases.session(known.case, known.declared or {})
            session = Session(known.operator, signed.key_id, exchange.request_id, invocation, known.buckets, case)
            service, _, name = headers.get("x-amz-target", "").partition(".")
            if service != TARGET:
                raise NoSuchOperation(f"X-Amz-Target must be {TARGET}.OPERATION")
            result = _handler(self._handlers, name)(self._app, session, codec.parse(name, body))
            content = codec.dump(name, result.body)
        except Exception as error:  # as in `_exchange`, but ended in this thread
            return _failure(error, exchange)
        finally:
            memory.overwrite_kept(self._app.models.recogniser.dimensions)
        if "x-aboveboard-audit-id" in result.headers:
            exchange.policy = result.headers.get("x-aboveboard-policy", "")
        return Response(content, media_type=CONTENT_TYPE, headers={"x-amzn-RequestId": exchange.request_id, **result.headers})


async def _nothing(_: Request) -> Response:
    raise AssertionError("a POST is answered before the router; this route makes it answer 405 to every other method")


def _address(request: Request) -> str:
    """The client's address; a proxy's word for it (X-Forwarded-For) only where it is one."""
    try:
        # Without a zone: ip_address takes any text after the %.
        return str(ipaddress.ip_address(request.client.host.partition("%")[0])) if request.client else ""
    except ValueError:
        return ""


def _headers(request: Request) -> dict[str, str]:
    """The headers by lower-case name; raises BadRequest where one that decides is there twice: a proxy may have read the other."""
    headers: dict[str, str] = {}
    for raw, value in request.scope["headers"]:
        name = raw.decode("latin-1").lower()
        if name in headers and (name in ("authorization", "host", "content-length") or name.startswith("x-amz-")):
            raise BadRequest(f"the header {name[:80]} stands in the request twice; send it once")
        headers[name] = value.decode("latin-1")
    return headers


def _length(headers: Mapping[str, str], operation: str) -> int:
    """The announced length of the body; without one, the most there may be. Raises SampleTooLarge or BadRequest above that."""
    announced = headers.get("content-length", "")
    length = int(announced) if announced.isdecimal() and len(announced) < 20 else MAX_BODY
    if length > MAX_BODY:
        raise _too_large(operation)
    return length


def _credential(app: App, signed: auth.Signed) -> Credential:
    """What the key that the request claims stands for; raises Unauthenticated for an unknown key."""
    known = app.operators.by_key(signed.key_id)
    if known is None:
        raise Unauthenticated("The security token included in the request is invalid.", reason="UnrecognizedClientException")
    if known.expires_at and moment(known.expires_at) <= moment(now()):
        raise Unauthenticated("The security token included in the request is expired", reason="ExpiredTokenException")
    return known


async def _body(request: Request, operation: str) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise _too_large(operation)
        parts.append(part)
    return b"".join(parts)


def _too_large(operation: str) -> Error:
    """Where a photograph is sent, it is that which is too large."""
    takes_image = bool(operation) and "ImageTooLargeException" in {shape.name for shape in codec.operation_model(operation).error_shapes}
    kind, remedy = (SampleTooLarge, "send a smaller image") if takes_image else (BadRequest, "send less at once")
    return kind(f"the request body is larger than {MAX_BODY} bytes; {remedy}")


def _handler(handlers: Mapping[str, Handler], name: str) -> Handler:
    if name in handlers:
        return handlers[name]
    try:
        codec.operation_model(name)
    except KeyError:
        raise NoSuchOperation(f"Amazon Rekognition has no operation {name[:80]!r}") from None
    raise Refused(f"{name} is not provided by this server; it provides {', '.join(sorted(handlers))}", rule="not-provided")


def _failure(error: Exception, exchange: Exchange) -> Response:
    """An error as AWS words it. Of a defect the log tells type and places, the caller nothing."""
    facts = {"facts": {"request_id": exchange.request_id, "operation": exchange.operation}}
    if isinstance(error, TimeoutError):
        error = BadRequest(f"the request body did not come within {BODY_TIMEOUT_S} s; send it again")
    elif isinstance(error, ClientDisconnect):
        error = BadRequest("the client went away")
    if isinstance(error, Error):
        (exchange.code, exchange.status), message = code_of(error), error.message
        exchange.rule, exchange.limit = str(error.facts.get("rule", "")), str(error.facts.get("limit", ""))
        if exchange.status == 500:
            log.error("failed: %s", message, extra=facts)
    else:
        log.error("a defect", exc_info=error, extra=facts)
        exchange.code, exchange.status = "InternalServerError", 500
        message = f"an error inside the server; its log tells more under request {exchange.request_id}"
    content = json.dumps({"__type": exchange.code, "Code": exchange.code, "Logref": exchange.request_id, "Message": message})
    headers = {"x-amzn-RequestId": exchange.request_id, "x-amzn-ErrorType": exchange.code}
    return Response(content, exchange.status, headers, CONTENT_TYPE)
