"""Several processes on one port: workers, which answer requests, and the search process, which holds what there is one of.

All of them are forked from one that has opened the deployment, so that they share the models' memory, and that itself does nothing but
start them again and pass on the wish to stop. It runs no threads of ours: a fork would not take them along, but their locks.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial

from aboveboard.remote import line

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD}
_SEARCH = "search process"
_SHORT_S = 1.0
"""A process that lived shorter than this is started again this much later."""

log = logging.getLogger("aboveboard.serve")

Search = Callable[[socket.socket, Mapping[str, socket.socket]], None]
"""The search process, given the end on which it answers and those on which it asks each worker. Returns when nobody asks any more."""
Work = Callable[[socket.socket, socket.socket, int], None]
"""A worker, given the ends on which it asks the search process and on which it answers, and a file that ends with the supervisor.
Returns then, or after SIGTERM, when its requests are answered."""


def supervise(workers: int, search: Search, work: Work, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Run them until SIGTERM or Ctrl-C, then until all requests are answered; a second Ctrl-C waits for none. The listener is closed."""
    asking, answering = line()
    lines = {str(number): line() for number in range(1, workers + 1)}
    alive, mine = os.pipe()

    def begin_search() -> None:
        for one in (asking, listener):
            one.close()
        search(answering, {number: ends[0] for number, ends in lines.items()})

    def begin_work(number: str) -> None:
        answering.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        work(asking, lines[number][1], alive)

    running: dict[int, tuple[str, float]] = {}
    roles: dict[str, Callable[[], None]] = {_SEARCH: begin_search, **{f"worker {number}": partial(begin_work, number) for number in lines}}

    def start(role: str) -> None:
        pid = os.fork()
        if pid:
            running[pid] = role, time.monotonic()
            return
        code = 1
        try:
            os.close(mine)
            roles[role]()
            code = 0
        except BaseException as error:
            log.error("the %s cannot go on", role, exc_info=error)
        finally:
            os._exit(code)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        for role in roles:
            start(role)
        ready()
        is_stopping = False
        while running:
            number = signal.sigwait(_SIGNALS)
            if number != signal.SIGCHLD:
                kind = signal.SIGKILL if is_stopping and number == signal.SIGINT else signal.SIGTERM
                is_stopping = True
                listener.close()
                for pid, (role, _) in running.items():
                    if role != _SEARCH:
                        os.kill(pid, kind)
            while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                role, since = running.pop(ended[0])
                if is_stopping:
                    continue
                log.error("the %s (process %d) ended with %d; it is started again", role, ended[0], os.waitstatus_to_exitcode(ended[1]))
                if time.monotonic() - since < _SHORT_S:
                    time.sleep(_SHORT_S)
                start(role)
            if is_stopping and {role for role, _ in running.values()} == {_SEARCH}:
                asking.close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for one in (asking, answering, *(end for ends in lines.values() for end in ends)):
            one.close()
        os.close(mine)
        os.close(alive)
