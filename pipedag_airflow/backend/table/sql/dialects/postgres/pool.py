"""Connections that are kept: those that the server has ended meanwhile are noticed before they are used."""

from __future__ import annotations

import selectors
import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

__all__ = ["notice_ended_connections"]

#: After so many seconds something between us and the server may have forgotten a connection without a word.
_SILENT_SECONDS = 10.0
_RETURNED = "pipedag_returned"


def notice_ended_connections(engine: sa.Engine) -> None:
    """Let an engine give out no connection that has ended.

    A server that stops says goodbye: that is there to be read, and costs no question. A connection that was not used
    for some time is asked all the same.
    """

    def note_return(_dbapi_connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_RETURNED] = time.monotonic()

    def check(dbapi_connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        returned = entry.info.get(_RETURNED)
        if returned is None:
            return  # it was opened just now
        if _has_something_to_say(dbapi_connection) or time.monotonic() - returned > _SILENT_SECONDS:
            try:
                engine.dialect.do_ping(dbapi_connection)
            except engine.dialect.loaded_dbapi.Error as error:
                # The pool opens another one.
                raise sa.exc.DisconnectionError from error

    sa.event.listen(engine, "checkin", note_return)
    sa.event.listen(engine, "checkout", check)


def _has_something_to_say(dbapi_connection: Any) -> bool:
    """Say whether the server has sent something that nobody asked for, or the connection is closed on our side."""
    if dbapi_connection.closed:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(dbapi_connection.fileno(), selectors.EVENT_READ)
        return bool(selector.select(timeout=0))
