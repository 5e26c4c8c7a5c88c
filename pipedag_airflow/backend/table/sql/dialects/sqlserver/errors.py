"""What the errors of SQL Server say, as ODBC passes them on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["is_busy", "numbers", "reason"]

#: The numbers of SQL Server's errors of a deadlock that was resolved at our cost, and of a lock not given in time.
_BUSY = {1205, 1222}
#: ``[42S02] [Microsoft][ODBC Driver 18 for SQL Server][SQL Server]Invalid object name 't'. (208) (SQLExecDirectW)``
_NUMBER = re.compile(r"\((-?\d+)\)(?=\s*\(SQL|\s*;|\s*$)")
_ORIGIN = re.compile(r"\[[0-9A-Z]{5}\]\s*|\[Microsoft\]|\[unixODBC\]|\[ODBC Driver[^\]]*\]|\[SQL Server\]")
_FUNCTION = re.compile(r"\s*\(SQL[A-Za-z]+\)")


def _text(error: sa.exc.DBAPIError) -> str:
    given: tuple[object, ...] = getattr(error.orig, "args", ())
    return str(given[-1] if given else error.orig)  # before it stands the SQLSTATE


def numbers(error: sa.exc.DBAPIError) -> set[int]:
    """Return SQL Server's own numbers of what is in an error; SQLSTATEs tell too little apart."""
    return {int(number) for number in _NUMBER.findall(_text(error))}


def is_busy(error: sa.exc.DBAPIError) -> bool:
    """Say whether a statement failed only because of what others were doing at that moment."""
    return bool(numbers(error) & _BUSY)


def reason(error: sa.exc.DBAPIError) -> str:
    """Return what the server says, without who has passed it on."""
    return _FUNCTION.sub("", _ORIGIN.sub("", _text(error))).strip()
