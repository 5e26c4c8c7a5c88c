"""Scripts in Transact-SQL: what is sent at once, what may not be in it, and where ``INTO`` stands in a query."""

from __future__ import annotations

import logging
import re
from itertools import pairwise
from typing import Any, Self

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.dialects.sqlserver.tokens import COMMENT, Word, code_words, shape_of
from pipedag_airflow.errors import MissingExtraError, StoreError

__all__ = ["controls_transaction", "other_database", "run_batch", "run_with_pytsql", "split_batches", "with_into"]

log = logging.getLogger("pipedag_airflow.sql")

#: GO is no statement: the tools of SQL Server know it, alone in its line, with how often the batch is sent.
_GO = re.compile(r"^[ \t]*GO(?:[ \t]+(?P<times>\d+))?[ \t;\0]*\r?$", re.IGNORECASE | re.MULTILINE)
#: What may follow the columns of a query.
_AFTER_COLUMNS = {"FROM", "WHERE", "GROUP", "HAVING", "WINDOW", "ORDER", "FOR", "OPTION"}
_AFTER_COLUMNS |= {"UNION", "EXCEPT", "INTERSECT"}
#: A batch that begins so holds nothing but the text of what it makes.
_MAKES_MODULE = {"PROC", "PROCEDURE", "FUNCTION", "TRIGGER", "VIEW"}
#: The only statement of pytsql's own whose rows it wants.
_FETCHES_PRINTS = "SELECT * FROM #pytsql_prints"


def split_batches(script: str) -> list[str]:
    """Return the batches of a script, which end at lines that consist of GO; empty ones are left out.

    Args:
        script: The script. A GO in a string, a comment, a quoted name or beside anything else is left alone.
    """
    batches: list[str] = []
    position = 0
    shape = shape_of(script)
    for go in [*_GO.finditer(shape), None]:
        piece = slice(position, go.start() if go else None)
        if shape[piece].replace(COMMENT, "").strip():
            batches += [script[piece].strip()] * (int(go["times"] or 1) if go else 1)
        position = go.end() if go else len(script)
    return batches


def controls_transaction(batch: str) -> bool:
    """Say whether a batch begins or ends a transaction, other than in the text of a procedure that it makes."""
    words = [word.text for word in code_words(batch)]
    if words[:1] in (["CREATE"], ["ALTER"]) and _MAKES_MODULE & set(words[1:4]):
        return False
    following = zip(words, [*words[1:], ""], strict=True)
    return any(
        word in ("COMMIT", "ROLLBACK") or (word == "BEGIN" and after in ("TRAN", "TRANSACTION", "DISTRIBUTED"))
        for word, after in following
    )


def other_database(batch: str, database: str | None) -> str | None:
    """Return the database to which a batch changes with USE, unless that is the one where it is."""
    for word in code_words(batch):
        if word.text == "USE":
            found = re.match(r"\s*(?:\[((?:[^\]]|\]\])*)\]|\"([^\"]*)\"|([\w@$#]+))", batch[word.end :])
            name = "".join(filter(None, found.groups())).replace("]]", "]") if found else ""
            if name and name.casefold() != str(database).casefold():
                return name
    return None


def with_into(query: str, target: str) -> str:
    """Return a query that makes a table of its result: ``SELECT columns INTO target FROM ...``.

    Args:
        query: The query; it may begin with WITH.
        target: The table, quoted.
    """
    words = [word for word in code_words(query) if word.depth == 0]
    first = next((index for index, word in enumerate(words) if word.text == "SELECT"), None)
    if first is None:  # it begins with a parenthesis
        return f"SELECT * INTO {target} FROM (\n{query}\n) AS pipedag_query"  # noqa: S608 - the target is quoted
    following = pairwise(words[first:])
    place = next((word.start for before, word in following if _ends_columns(before, word)), None)
    if place is None:
        return f"{query.rstrip().rstrip(';')}\nINTO {target}"
    return f"{query[:place].rstrip()}\nINTO {target}\n{query[place:]}"


def _ends_columns(before: Word, word: Word) -> bool:
    return word.text in _AFTER_COLUMNS and not (word.text == "FROM" and before.text == "DISTINCT")  # IS DISTINCT FROM


def run_batch(connection: sa.Connection, batch: str) -> None:
    """Execute a batch to its end, and log what it prints.

    An error after the first result is raised only when the results before it were taken, and a batch whose results are
    not taken may be cut off.
    """
    raw: Any = connection.connection.driver_connection
    cursor = raw.cursor()
    try:
        cursor.execute(batch)
        _log_messages(cursor)
        while cursor.nextset():
            _log_messages(cursor)
    except connection.dialect.loaded_dbapi.Error as error:
        raise sa.exc.DBAPIError(batch, None, error) from error
    finally:
        cursor.close()


def _log_messages(cursor: Any) -> None:
    for _, message in getattr(cursor, "messages", None) or ():
        log.info("SQL Server: %s", re.sub(r"^(\[[^\]]*\])+", "", message))


def run_with_pytsql(connection: sa.Connection, script: str, *, isolate: bool) -> None:
    """Let pytsql take a script apart and execute it, within the transaction of the connection.

    Args:
        connection: The connection.
        script: The script.
        isolate: Whether each statement is sent by itself, with all DECLAREs before it.

    Raises:
        MissingExtraError: if pytsql is not installed.
        StoreError: if it does not understand the script.
    """
    try:
        from pytsql import executes
    except ImportError as error:
        raise MissingExtraError(
            "pytsql, which executes scripts on SQL Server, is not installed: pip install 'pipedag-airflow[mssql]'. Or "
            "set table_store.args.disable_pytsql: true, and end batches with lines that consist of GO."
        ) from error
    try:
        executes(script, _Within(connection), isolate_top_level_statements=isolate)
    except ValueError as error:
        raise StoreError(
            f"pytsql does not understand it: {error} Correct it, or set table_store.args.disable_pytsql: true, and end "
            "batches with lines that consist of GO."
        ) from error


class _Within:
    """What pytsql takes for an engine: its only connection is one that is open, in a transaction that goes on."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def connect(self) -> Self:
        return self

    def execution_options(self, **_: Any) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def execute(self, statement: sa.TextClause) -> sa.CursorResult[Any] | None:
        text = str(statement.compile(dialect=self._connection.dialect))
        if text.startswith(_FETCHES_PRINTS):
            return self._connection.execute(statement)
        run_batch(self._connection, text)
        return None
