"""Objects in another process of this deployment, asked over sockets without a name: who did not inherit one cannot reach them.

Messages are pickled. Both ends are processes of one program and one user, and no byte of a caller's is a message.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from aboveboard.errors import Error, Unavailable

PATIENCE_S = 5.0
"""How long a connection may take to be answered: the other process may be starting anew."""

log = logging.getLogger("aboveboard.remote")


def line() -> tuple[socket.socket, socket.socket]:
    """Two ends, made before the processes are: who holds the first asks, who holds the second answers."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class _Gone(Exception):
    """The other process is not there any more."""


class _Argument(int):
    """Stands for a function among the arguments: calls of it travel back."""


class Remote:
    """Asks the process at the other end of a line; for many threads, each of which has a connection of its own while it asks.

    Raises what the object raises, Unavailable where there is no process to ask. Where that dies meanwhile, the new one is asked again,
    once: only for methods that may be called twice.
    """

    def __init__(self, asking: socket.socket) -> None:
        self._asking = asking
        self._idle: list[Connection] = []

    def call(self, name: str, method: str, *arguments: Any, **named: Any) -> Any:
        """What the method of the object of this name answers. Functions among the unnamed arguments are called here, in this thread."""
        connection, answer = self._ask(name, method, arguments, named, is_held=False)
        self._idle.append(connection)
        return answer

    @contextmanager
    def hold(self, name: str, method: str, *arguments: Any) -> Iterator[None]:
        """The context manager that the method gives, entered there while the block runs here; left, too, when this process dies."""
        connection, _ = self._ask(name, method, arguments, {}, is_held=True)
        try:
            yield
        finally:
            try:
                _send(connection, None)
                _receive(connection)
                self._idle.append(connection)
            except _Gone:
                connection.close()

    def stand_in(self, name: str) -> Any:
        """Something whose public methods are those of the object of this name."""
        return _StandIn(self, name)

    def _ask(
        self, name: str, method: str, arguments: tuple[Any, ...], named: Mapping[str, Any], *, is_held: bool
    ) -> tuple[Connection, Any]:
        sent = [_Argument(i) if callable(one) else one for i, one in enumerate(arguments)]
        for _ in range(2):
            with suppress(_Gone):
                connection = self._connection()
                try:
                    _send(connection, (name, method, sent, named, is_held))
                    kind, content = _receive(connection)
                    while kind == "call":
                        _send(connection, arguments[content[0]](*content[1]))
                        kind, content = _receive(connection)
                except BaseException:
                    connection.close()
                    raise
                if kind == "done":
                    return connection, content
                self._idle.append(connection)
                raise content
        raise Unavailable("the process that was asked ended meanwhile; send the request again")

    def _connection(self) -> Connection:
        with suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if not connection.poll():
                    return connection
                connection.close()  # all that can be read of an idle one is its end
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                socket.send_fds(self._asking, [b"+"], [theirs.fileno()], socket.MSG_DONTWAIT)
            except OSError as error:
                raise Unavailable("the process to be asked takes nobody any more; send the request again later") from error
            connection = Connection(ours.detach())
        if not connection.poll(PATIENCE_S):
            connection.close()
            raise Unavailable(f"the process to be asked has not answered for {PATIENCE_S:g} s; send the request again later")
        try:
            _receive(connection)
        except _Gone:
            connection.close()
            raise
        return connection


class _StandIn:
    def __init__(self, remote: Remote, name: str) -> None:
        self._remote, self._name = remote, name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)

        return partial(self._remote.call, self._name, method)


def answer(answering: socket.socket, objects: Mapping[str, Any], after: Callable[[], None] = lambda: None) -> None:
    """Answer for these objects, a thread for each connection, until nobody holds the asking end any more; `after` is called in the same
    thread after each answer."""
    while True:
        _, connections, _, _ = socket.recv_fds(answering, 1, 1)
        if not connections:
            return
        threading.Thread(target=_attend, args=(Connection(connections[0]), objects, after), daemon=True).start()


def _attend(connection: Connection, objects: Mapping[str, Any], after: Callable[[], None]) -> None:
    with connection, suppress(_Gone):
        _send(connection, None)
        while True:
            _answer_once(connection, objects)
            after()


def _answer_once(connection: Connection, objects: Mapping[str, Any]) -> None:
    name, method, arguments, named, is_held = _receive(connection)
    with ExitStack() as held:
        reply: tuple[str, Any]
        try:
            found = getattr(objects[name], method)(*(_called(connection, one) for one in arguments), **named)
            reply = "done", held.enter_context(found) if is_held else found
        except _Gone:
            raise
        except Error as error:
            reply = "error", error
        except Exception as error:  # the one who asked waits for an answer, whatever it is
            log.error("a defect", exc_info=error)
            reply = "error", Unavailable("an error inside the process that was asked; its log tells more")
        _send(connection, reply)
        if not is_held or reply[0] == "error":
            return
        _receive(connection)
    _send(connection, None)


def _called(connection: Connection, argument: Any) -> Any:
    if not isinstance(argument, _Argument):
        return argument

    def call(*arguments: Any) -> Any:
        _send(connection, ("call", (int(argument), arguments)))
        return _receive(connection)

    return call


def _send(connection: Connection, message: Any) -> None:
    try:
        connection.send(message)
    except OSError as error:
        raise _Gone from error


def _receive(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, OSError) as error:
        raise _Gone from error
