"""What the errors of Db2 say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["ended_unit", "is_busy", "reason"]

_MESSAGE = re.compile(r"SQL(\d{4,5})[NCW]\b.*", re.DOTALL)
#: A deadlock or a lock that was not given in time: with the first of the two all of the transaction is rolled back.
_ROLLED_BACK, _STATEMENT_ONLY = 911, 913


def _number(error: sa.exc.DBAPIError) -> int | None:
    found = _MESSAGE.search(str(error.orig))
    return None if found is None else int(found[1])


def is_busy(error: sa.exc.DBAPIError) -> bool:
    """Say whether a statement failed only because of what others were doing at that moment."""
    return _number(error) in (_ROLLED_BACK, _STATEMENT_ONLY)


def ended_unit(error: sa.exc.DBAPIError) -> bool:
    """Say whether Db2 has rolled back with the statement all that was done before it."""
    return _number(error) == _ROLLED_BACK


def reason(error: sa.exc.DBAPIError) -> str:
    """Return what the server says, without what the driver puts before it and the line ends that it writes out."""
    text = str(error.orig)
    found = _MESSAGE.search(text)
    return " ".join((text if found is None else found[0]).replace("\\r", " ").replace("\\n", " ").split())
