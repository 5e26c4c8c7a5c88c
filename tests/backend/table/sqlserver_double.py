"""What stands for pyodbc and a SQL Server behind it: it notes what it is sent, and keeps what it must to answer.

It is no SQL Server. Rows are kept in SQLite, which is given what it understands of a statement; tables and views are
kept account of here, and the catalog is answered from that. There are no transactions, no locks and no checks: that a
statement is taken here says nothing about whether a server would take it.
"""

from __future__ import annotations

import datetime as dt
import decimal
import re
import sqlite3
import time
from types import ModuleType
from typing import Any

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ [+-]\d\d:?\d\d")
_PLACE = r"(\[[^\]]+\]|\w+) ?\. ?(\[[^\]]+\]|\w+)"
#: What is answered alike by every server; of the first pattern that is found in a statement the rows are the answer.
_ANSWERS: list[tuple[str, list[tuple[Any, ...]]]] = [
    ("SERVERPROPERTY", [("16.0.4165.4",)]),
    ("schema_name()", [("dbo",)]),
    ("FROM sys.system_views", [("dm_exec_sessions",)]),
    ("transaction_isolation_level", [("READ COMMITTED",)]),
    ("test max support", [("x",)]),
    ("sp_getapplock", [(0,)]),
    ("APPLOCK_TEST", [(1,)]),
    ("FROM sys.databases", [(0,)]),
    ("HAS_PERMS_BY_NAME", [(0,)]),
    ("SELECT * FROM #pytsql_prints", []),
    ("sys.allocation_units", []),
]
_SILENT = re.compile(
    r"SET |IF DB_ID|DECLARE|EXEC sp_releaseapplock|ALTER TABLE|CREATE INDEX"
    r"|(?:CREATE TABLE|DROP TABLE IF EXISTS|DELETE FROM|INSERT INTO) #pytsql"
)
#: What SQLite and people call some types, and what the catalog of SQL Server does.
_CALLED = {"": "nvarchar", "TEXT": "nvarchar", "NUM": "numeric", "REAL": "float", "DOUBLE PRECISION": "float"}
_CALLED |= {"INTEGER": "int", "FLOAT(24)": "real"}
_FOR_SQLITE = [
    (r"\bN'", "'"),
    (r" COLLATE \w+", ""),
    (r" WITH \((?:ROWLOCK|NOLOCK|XLOCK|HOLDLOCK|, )+\)", ""),
    (r"\(max\)", ""),
    (r"\bcount_big\(", "count("),
    (r"^SELECT TOP (\d+) (.*)$", r"SELECT \2 LIMIT \1"),
]


class Error(Exception):
    """An error of ODBC: SQLSTATE, and what was said."""


class Server:
    """A server, and all databases on it as one."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.parameters: list[Any] = []
        self.connected: list[str] = []
        self.failures: dict[str, Error] = {}
        #: What happens in a batch after its first result.
        self.later: list[Error] = []
        self.modules: list[tuple[str, str, str]] = []
        self.answers: list[tuple[str, list[tuple[Any, ...]]]] = []
        self.views: dict[tuple[str, str], int] = {}
        self.messages: list[tuple[str, str]] = []
        self._numbers: dict[tuple[str, str], int] = {}
        self._sqlite = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._schemas: set[str] = set()

    def fail(self, part: str, number: int, message: str, state: str = "42000") -> None:
        """Let statements with a text in them fail, or the opening of a connection."""
        self.failures[part] = self.error(number, message, state)

    def error(self, number: int, message: str, state: str = "42000") -> Error:
        """Return an error as the driver passes it on."""
        origin = f"[{state}] [Microsoft][ODBC Driver 18 for SQL Server][SQL Server]"
        return Error(state, f"{origin}{message} ({number}) (SQLExecDirectW)")

    def note(self, sql: str, parameters: Any = None) -> None:
        self.sent.append(sql)
        self.parameters.append(parameters)

    def check(self, text: str) -> None:
        for part, error in self.failures.items():
            if part in text:
                raise error

    def execute(self, sql: str, parameters: Any) -> tuple[list[Any] | None, list[Any], int]:
        """Return the columns of the answer, its rows, and how many rows were changed."""
        self.note(sql, parameters)
        self.check(sql)
        answer = next((rows for part, rows in [*self.answers, *_ANSWERS] if part in sql), None)
        if answer is not None:
            return [("answer",)] * max(map(len, answer), default=1), list(answer), -1
        if "DATEDIFF_BIG" in sql:
            return [("now",)], [(time.time(),)], -1
        if "sys." in sql and not sql.startswith("SET "):
            return self._catalog(sql, list(parameters))
        if _SILENT.match(sql) or self._makes(sql):
            return None, [], -1
        return self._rows(sql, parameters)

    def _makes(self, sql: str) -> bool:
        """Keep account of schemas and views; return whether that is all there is to do."""
        schema = re.search(r"EXEC\(N'CREATE SCHEMA \[?(\w+)\]?'\)", sql)
        if schema is not None:
            if schema[1] not in self._schemas:
                self._schemas.add(schema[1])
                self._sqlite.execute(f"ATTACH ':memory:' AS [{schema[1]}]")
            return True
        dropped = re.match(r"DROP SCHEMA IF EXISTS \[?(\w+)\]?", sql)
        if dropped is not None:
            self._schemas.discard(dropped[1])
            self._sqlite.execute(f"DETACH [{dropped[1]}]")
            return True
        module = re.match(rf"CREATE (?:OR ALTER )?(P|S)(?:ROCEDURE|YNONYM) {_PLACE}", sql)
        if module is not None:
            kind = {"P": "P ", "S": "SN"}[module[1]]
            self.modules.append((_bare(module[2]), _bare(module[3]), kind))
            return True
        module = re.match(rf"DROP (?:PROCEDURE|SYNONYM) IF EXISTS {_PLACE}", sql)
        if module is not None:
            self.modules = [made for made in self.modules if made[:2] != (module[1], module[2])]
            return True
        view = re.match(rf"(CREATE|DROP) (?:OR ALTER )?VIEW (?:IF EXISTS )?{_PLACE}", sql)
        if view is None:
            return False
        place = _bare(view[2]), _bare(view[3])
        self.views.pop(place, None)
        if view[1] == "CREATE":
            self.views[place] = self._number(place)
        return True

    def _number(self, place: tuple[str, str]) -> int:
        return self._numbers.setdefault(place, len(self._numbers) + 1)

    def _catalog(self, sql: str, asked: list[Any]) -> tuple[list[Any], list[Any], int]:
        if "SELECT COUNT(*) FROM sys.schemas" in sql:
            return [("count",)], [(int(asked[0] in self._schemas),)], -1
        if "SELECT s.name FROM sys.schemas" in sql:
            return [("name",)], [(schema,) for schema in sorted(self._schemas)], -1
        if "sys.columns" in sql:
            return self._columns(*asked)
        if "FROM sys.types" in sql:
            return [("name",), ("type",)], [(name, kind) for schema, name, kind in self.modules if schema in asked], -1
        assert "o.object_id" in sql, sql
        tables = [(*place, "U ", self._number(place)) for place in self._tables() if place[0] in asked]
        views = [(*place, "V ", number) for place, number in self.views.items() if place[0] in asked]
        rows = sorted([*tables, *views], key=lambda row: row[3])
        return [(name,) for name in ("schema_name", "name", "type", "object_id")], rows, -1

    def _tables(self) -> list[tuple[str, str]]:
        listing = "SELECT name FROM [{}].sqlite_master WHERE type = 'table'"
        return [(schema, name) for schema in self._schemas for (name,) in self._sqlite.execute(listing.format(schema))]

    def _columns(self, schema: str, table: str | None = None) -> tuple[list[Any], list[Any], int]:
        rows = []
        for place in self._tables():
            if place[0] == schema and table in (None, place[1]):
                for _, name, kind, required, _, _ in self._sqlite.execute(
                    f"PRAGMA [{schema}].table_info([{place[1]}])"
                ):
                    base = _CALLED.get(kind, kind.split("(")[0].lower())
                    length = -1 if base in ("nvarchar", "varchar", "varbinary") else 8
                    collation = "Latin1_General_CI_AS" if "char" in base else None
                    rows.append((place[1], name, base, length, 20, 6 if "time" in base else 0, not required, collation))
        names = ("table_name", "name", "type_name", "max_length", "precision", "scale", "is_nullable", "collation_name")
        return [(name,) for name in names], rows, -1

    def _rows(self, sql: str, parameters: Any) -> tuple[list[Any] | None, list[Any], int]:
        for pattern, replacement in _FOR_SQLITE:
            sql = re.sub(pattern, replacement, sql.strip(), flags=re.DOTALL)
        counted = re.match(rf"SELECT count\(\*\) AS \w+ \nFROM {_PLACE}$", sql)
        if counted is not None and (counted[1], counted[2]) in self.views:
            return [("count",)], [(0,)], -1
        into = re.search(rf"\sINTO {_PLACE}", sql) if "VALUES" not in sql and "INSERT" not in sql else None
        if into is not None:
            sql = f"CREATE TABLE {into[1]}.{into[2]} AS {sql.replace(into[0], ' ')}"
        sql = re.sub(rf"DROP (TABLE) IF EXISTS {_PLACE}", r"DROP TABLE IF EXISTS \2.\3", sql)
        run = self._sqlite.executemany if isinstance(parameters, list) else self._sqlite.execute
        cursor = run(sql, _plain(parameters))
        rows = [tuple(_moment(value) for value in row) for row in cursor.fetchall()]
        made = re.match(rf"CREATE TABLE {_PLACE}", sql)
        if made is not None:
            self._number((_bare(made[1]), _bare(made[2])))
        return cursor.description and [column[:1] for column in cursor.description], rows, cursor.rowcount


def _bare(name: str) -> str:
    return name.strip("[]")


def _plain(parameters: Any) -> Any:
    if isinstance(parameters, list):
        return [_plain(row) for row in parameters]
    return [str(value) if isinstance(value, (decimal.Decimal, dt.datetime, dt.date)) else value for value in parameters]


def _moment(value: Any) -> Any:
    # What the driver makes of a DATETIMEOFFSET.
    return dt.datetime.fromisoformat(value) if isinstance(value, str) and _MOMENT.fullmatch(value) else value


class Cursor:
    arraysize = 1
    fast_executemany = False

    def __init__(self, server: Server) -> None:
        self._server = server
        self._rows: list[Any] = []
        self.description: list[Any] | None = None
        self.rowcount = -1
        self.messages: list[tuple[str, str]] = []

    def execute(self, sql: str, *parameters: Any) -> Cursor:
        given = parameters[0] if len(parameters) == 1 and isinstance(parameters[0], (tuple, list)) else parameters
        self._take(self._server.execute(sql, tuple(given)))
        self.messages, self._server.messages = self._server.messages, []
        return self

    def executemany(self, sql: str, rows: Any) -> None:
        assert self.fast_executemany, "rows are sent one by one"
        self._take(self._server.execute(sql, [tuple(row) for row in rows]))

    def _take(self, answer: tuple[list[Any] | None, list[Any], int]) -> None:
        columns, self._rows, self.rowcount = answer
        self.description = columns and [(*column, *[None] * (7 - len(column))) for column in columns]

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchmany(self, size: int = 1) -> list[Any]:
        taken, self._rows = self._rows[:size], self._rows[size:]
        return taken

    def fetchall(self) -> list[Any]:
        return self.fetchmany(len(self._rows))

    def nextset(self) -> bool:
        if self._server.later:
            raise self._server.later.pop()
        return False

    def setinputsizes(self, _sizes: Any) -> None:
        return

    def close(self) -> None:
        return


class Connection:
    autocommit = False

    def __init__(self, server: Server) -> None:
        self._server = server

    def cursor(self) -> Cursor:
        return Cursor(self._server)

    def add_output_converter(self, _kind: int, _convert: Any) -> None:
        return

    def commit(self) -> None:
        self._server.note("COMMIT")

    def rollback(self) -> None:
        self._server.note("ROLLBACK")

    def close(self) -> None:
        return


class Driver(ModuleType):
    """The module pyodbc, as far as SQLAlchemy uses it."""

    Error = DatabaseError = OperationalError = ProgrammingError = IntegrityError = Error
    InterfaceError = DataError = InternalError = NotSupportedError = Error
    Cursor = Cursor
    Binary = bytes
    NUMBER = STRING = BINARY = DATETIME = ROWID = object
    version = "5.5.0"
    paramstyle = "qmark"
    pooling = True
    SQL_VARCHAR, SQL_WVARCHAR, SQL_DECIMAL, SQL_VARBINARY = 12, -9, 3, -3

    def __init__(self, server: Server) -> None:
        super().__init__("pyodbc")
        self.server = server

    def connect(self, connection_string: str, **_: Any) -> Connection:
        self.server.connected.append(connection_string)
        self.server.check(connection_string)
        return Connection(self.server)
