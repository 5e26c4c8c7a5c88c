"""A stand-in for a server of Db2, at the place of its driver: it keeps what it was sent.

Nothing here knows Db2. So that a run gets answers, each statement is said in DuckDB's words where these differ, and the
catalog is a set of views. What is asserted is the text that Db2 would have got, and the order of it.
"""

from __future__ import annotations

import re
from typing import Any

import duckdb
import ibm_db_dbi
from ibm_db_sa.base import RESERVED_WORDS

PASSWORD = "c4n4ry"
URL = f"db2+ibm_db://somebody:{PASSWORD}@db2.example:50000/warehouse"

#: DuckDB keeps names as they are written: what was not quoted is in capitals in the catalog of Db2.
CATALOG = r"""
CREATE TABLE SYSCAT.ALIASES (schema VARCHAR, name VARCHAR, base_schema VARCHAR, base_name VARCHAR);
CREATE MACRO folded(name) AS
    CASE WHEN name = lower(name) AND name NOT IN (SELECT word FROM SYSCAT.QUOTED) THEN upper(name) ELSE name END;
CREATE VIEW SYSCAT.SCHEMATA AS SELECT folded(schema_name) AS SCHEMANAME FROM duckdb_schemas() WHERE NOT internal;
CREATE VIEW SYSCAT.TABLES AS
    SELECT folded(schema_name) AS TABSCHEMA, folded(table_name) AS TABNAME, 'T' AS TYPE,
        NULL AS BASE_TABSCHEMA, NULL AS BASE_TABNAME, TIMESTAMP '2026-01-01' + to_microseconds(table_oid) AS CREATE_TIME
    FROM duckdb_tables()
    UNION ALL
    SELECT folded(schema_name), folded(view_name), CASE WHEN name IS NULL THEN 'V' ELSE 'A' END,
        folded(base_schema), folded(base_name), TIMESTAMP '2026-01-01' + to_microseconds(view_oid)
    FROM duckdb_views() LEFT JOIN SYSCAT.ALIASES ON schema = schema_name AND name = view_name WHERE NOT internal;
CREATE TABLE SYSCAT.TABAUTH (GRANTOR VARCHAR, GRANTEE VARCHAR, GRANTEETYPE VARCHAR, TABSCHEMA VARCHAR, TABNAME VARCHAR,
    SELECTAUTH VARCHAR, INSERTAUTH VARCHAR, UPDATEAUTH VARCHAR, DELETEAUTH VARCHAR);
CREATE VIEW SYSCAT.COLUMNS AS
    SELECT folded(schema_name) AS TABSCHEMA, folded(table_name) AS TABNAME, folded(column_name) AS COLNAME,
        column_index AS COLNO,
        CASE WHEN data_type LIKE 'DECIMAL%' THEN 'DECIMAL' WHEN data_type = 'FLOAT' THEN 'REAL' ELSE data_type END
            AS TYPENAME,
        coalesce(numeric_precision, 20) AS LENGTH, coalesce(numeric_scale, 6) AS SCALE,
        CASE WHEN is_nullable THEN 'Y' ELSE 'N' END AS NULLS, 1208 AS CODEPAGE
    FROM duckdb_columns() WHERE NOT internal;
CREATE VIEW SYSCAT.TABDEP AS SELECT '' AS TABSCHEMA, '' AS TABNAME, '' AS BSCHEMA WHERE false;
CREATE VIEW SYSCAT.VIEWS AS SELECT '' AS VIEWSCHEMA, '' AS VIEWNAME, 'Y' AS VALID WHERE false;
CREATE VIEW SYSCAT.ROUTINES AS SELECT '' AS ROUTINESCHEMA, '' AS ROUTINENAME WHERE false;
CREATE VIEW SYSCAT.SEQUENCES AS SELECT '' AS SEQSCHEMA, '' AS SEQNAME, 'S' AS SEQTYPE WHERE false;
CREATE VIEW SYSCAT.DATATYPES AS SELECT '' AS TYPESCHEMA, '' AS TYPENAME WHERE false;
CREATE MACRO TABLE_SCHEMA(a, s) AS
    (SELECT folded(base_schema) FROM SYSCAT.ALIASES WHERE folded(name) = a AND folded(schema) = s);
CREATE MACRO TABLE_NAME(a, s) AS
    (SELECT folded(base_name) FROM SYSCAT.ALIASES WHERE folded(name) = a AND folded(schema) = s);
"""
#: What Db2 says one way and DuckDB another.
WORDS = [
    (r" WITH RS USE AND KEEP \w+ LOCKS", ""),
    (r"\s+WITH UR\s*$", ""),
    (r"FETCH FIRST (\d+) ROWS ONLY", r"LIMIT \1"),
    (r" FROM SYSIBM\.SYSDUMMY1", ""),
    (r"EXTRACT\(EPOCH FROM CURRENT TIMESTAMP - CURRENT TIMEZONE\)", "epoch(now())"),
    (r"CLOB\(\w+\)", "VARCHAR"),
    (r"BLOB\(\w+\)", "BLOB"),
    (r"(?s)^(CREATE TABLE \S+ AS) \(\n(.*)\n\) DEFINITION ONLY.*", r"\1 \2 WITH NO DATA"),
    (r"(?s)^(CREATE TABLE .*\)) COMPRESS.*", r"\1"),
    (r"CREATE INDEX \w+\.(\w+)", r"CREATE INDEX \1"),
    (r".*EXECUTE IMMEDIATE 'CREATE SCHEMA (.*)'; END", r"CREATE SCHEMA IF NOT EXISTS \1"),
    (r"(DROP SCHEMA \S+) RESTRICT", r"\1"),
    (r"ALIAS (\S+) FOR TABLE (\S+)", r"VIEW \1 AS SELECT * FROM \2"),
    (r"DROP ALIAS", "DROP VIEW"),
    (r"^(ALTER TABLE \S+ VOLATILE|LOCK TABLE|CALL SYSPROC\.|SET CURRENT LOCK|GRANT ).*", "SELECT 1"),
]
ALIAS = re.compile(r"ALIAS (\w+)\.(\w+)(?: FOR TABLE (\w+)\.(\w+))?$")


class Server:
    """The server: its connections share what is stored, and what a statement does is there at once."""

    url = URL

    def __init__(self) -> None:
        self.sent: list[str] = []
        #: What was sent on one connection until its COMMIT, each statement on one line.
        self.units: list[list[str]] = []
        self.parameters: list[tuple[Any, ...]] = []
        self.batches: list[list[tuple[Any, ...]]] = []
        self.data = duckdb.connect()
        self.data.execute("CREATE SCHEMA SYSCAT; CREATE TABLE SYSCAT.QUOTED (word VARCHAR)")
        self.data.execute("INSERT INTO SYSCAT.QUOTED SELECT unnest(?)", [sorted(RESERVED_WORDS)])
        self.data.execute(CATALOG)
        #: A part of a statement, and the error that the server gives for it.
        self.refusals: dict[str, str] = {}
        #: A part of a query, and the rows that the server gives for it: names of columns, and rows.
        self.replies: dict[str, tuple[list[str], list[tuple[Any, ...]]]] = {}
        self.arguments: list[tuple[str, ...]] = []

    def connect(self, *arguments: str) -> Connection:
        """Return what ``ibm_db_dbi.connect`` does."""
        self.arguments.append(arguments)
        return Connection(self)

    def refuse(self, statement: str) -> None:
        """Give the error that is meant for a statement."""
        for part, message in self.refusals.items():
            if part in statement:
                raise ibm_db_dbi.ProgrammingError(
                    f"Statement Execute Failed: [IBM][CLI Driver][DB2/LINUXX8664] {message}"
                )

    def run(self, statement: str, parameters: Any = ()) -> duckdb.DuckDBPyConnection:
        """Execute a statement in DuckDB's words."""
        alias = ALIAS.search(statement)
        if alias is not None:
            self.data.execute("DELETE FROM SYSCAT.ALIASES WHERE schema = ? AND name = ?", alias.group(1, 2))
            if alias[3]:
                self.data.execute("INSERT INTO SYSCAT.ALIASES VALUES (?, ?, ?, ?)", alias.groups())
        for pattern, replacement in WORDS:
            statement = re.sub(pattern, replacement, statement)
        return self.data.execute(statement, parameters)

    @property
    def of_the_stage(self) -> list[str]:
        """What was sent about tables of stages, on one line each: neither about the metadata nor to the catalog."""
        words = [" ".join(statement.split()) for statement in self.sent]
        return [word for word in words if not re.search(r"PIPEDAG_METADATA|SYSCAT|^SELECT .*SYSIBM|^SET ", word, re.I)]

    def unit_of(self, statement: str) -> list[str]:
        """What was committed together with a statement."""
        return next(unit for unit in self.units if any(sent.startswith(statement) for sent in unit))

    def forget(self) -> None:
        """Forget what was sent."""
        self.sent.clear()
        self.units.clear()
        self.parameters.clear()
        self.batches.clear()


class Connection:
    """A connection of the driver."""

    dbms_name, dbms_ver = "DB2/LINUXX8664", "11.05.0900"

    def __init__(self, server: Server) -> None:
        self.server = server
        self.unit: list[str] = []

    def cursor(self) -> Cursor:
        return Cursor(self)

    def send(self, statement: str) -> None:
        """Note a statement, and give the error that is meant for it."""
        self.server.sent.append(statement)
        self.unit.append(" ".join(statement.split()))
        self.server.refuse(statement)

    def commit(self) -> None:
        self.server.units.append(self.unit)
        self.unit = []

    def rollback(self) -> None:
        self.unit = []

    def close(self) -> None:
        pass

    def server_info(self) -> tuple[str, str]:
        return self.dbms_name, self.dbms_ver

    def get_current_schema(self) -> str:
        return "SOMEBODY"

    def get_option(self, _attribute: int) -> int:
        return 2


class Cursor:
    """A cursor of the driver."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.server = connection, connection.server
        self.description: Any = None
        self.rowcount = -1
        self._rows: list[tuple[Any, ...]] = []

    def execute(self, statement: str, parameters: Any = ()) -> None:
        self.connection.send(statement)
        self.server.parameters.append(tuple(parameters))
        if statement.startswith("INSERT"):
            self.server.batches.append([tuple(parameters)])
        reply = next((reply for part, reply in self.server.replies.items() if part in statement), None)
        if reply is not None:
            self.description, self._rows = [(name,) + (None,) * 6 for name in reply[0]], list(reply[1])
            return
        result = self.server.run(statement, list(parameters))
        self.description, self._rows = result.description, result.fetchall()
        if re.match("INSERT|UPDATE|DELETE", statement):
            self.rowcount, self.description = self._rows[0][0], None

    def executemany(self, statement: str, rows: Any) -> None:
        self.connection.send(statement)
        self.server.batches.append([tuple(row) for row in rows])
        for row in rows:
            self.server.run(statement, list(row))

    def fetchall(self) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows, []
        return rows

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows.pop(0) if self._rows else None

    def fetchmany(self, size: int = 1) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows

    def close(self) -> None:
        pass
