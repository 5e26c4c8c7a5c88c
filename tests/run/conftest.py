from __future__ import annotations

from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, PipedagConfig, Result
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.config.embedded import duckdb_url
from pipedag_airflow.run.session import RunSession
from pipedag_airflow.run.summary import published_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from pipedag_airflow import ConfigContext


class Database:
    """The database of a project, as a reader sees it who knows nothing of us."""

    #: For each table and view: its schema and its name.
    tables = "select table_schema, table_name from information_schema.tables"
    #: A writer has the file open: that is DuckDB's way to say "wait".
    busy: tuple[type[Exception], ...] = (duckdb.IOException,)

    def __init__(self, url: str) -> None:
        self.url = url

    @contextmanager
    def reader(self) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
        """Give what answers queries, all within one transaction."""
        with duckdb.connect(str(sa.make_url(self.url).database), read_only=True) as connection:
            yield lambda sql: connection.execute(sql).fetchall()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.reader() as query:
            return query(sql)

    def execute(self, sql: str) -> None:
        """Change something by hand."""
        with duckdb.connect(str(sa.make_url(self.url).database)) as connection:
            connection.execute(sql)


class Postgres(Database):
    """The same in PostgreSQL."""

    busy = ()

    @classmethod
    def of(cls, url: sa.URL) -> Postgres:
        return cls(url.set(drivername="postgresql").render_as_string(hide_password=False))

    @contextmanager
    def reader(self) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
        with psycopg.connect(self.url) as connection:
            yield lambda sql: connection.execute(sql).fetchall()

    def execute(self, sql: str) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute(sql)


class Project:
    """A configuration with data of its own, and what tests ask of runs in it."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database
        self.called: list[str] = []
        self.settings: dict[str, Any] = {
            "fail_fast": True,
            "strict_result_get_locking": False,
            "instance_id": "test",
            "table_store": {
                "class": "pipedag_airflow.backend.table.SQLTableStore",
                "args": {"url": database.url},
            },
            "blob_store": {
                "class": "pipedag_airflow.backend.blob.FileBlobStore",
                "args": {"base_path": str(folder / "blobs")},
            },
            "lock_manager": {
                "class": "pipedag_airflow.backend.lock.FileLockManager",
                "args": {"base_path": str(folder / "locks")},
            },
            "orchestration": {"class": "pipedag_airflow.engine.SequentialEngine"},
            "auto_table": ["pandas.DataFrame", "polars.DataFrame"],
        }

    def config(self, **settings: Any) -> ConfigContext:
        return PipedagConfig({"instances": {"__any__": self.settings | settings}}).get()

    def call(self, name: str) -> None:
        """Note that a task's function was called; tasks of tests do so first."""
        self.called.append(name)

    def run(self, flow: Flow, *components: Any, config: ConfigContext | None = None, **arguments: Any) -> Result:
        self.called.clear()
        return flow.run(*components, config=config or self.config(), **arguments)

    def executed(self, flow: Flow, **arguments: Any) -> list[str]:
        """Run the flow and return the functions that were called."""
        self.run(flow, **arguments)
        return list(self.called)

    def session(self, flow: Flow, run_id: str = "run", **given: Any) -> RunSession:
        """Return what a step of an orchestrator whose steps are separate processes has."""
        return RunSession(flow, self.config(), Owner.of_run(run_id), engine="test", is_over=lambda lease: True, **given)

    def generations(self, result: Result) -> dict[str, int]:
        return {stage.name: stage.generation for stage in published_by(result)}

    def tables(self, result: Result) -> dict[str, dict[str, int]]:
        """Return the rows of each published table by stage."""
        return {stage.name: {table.name: table.rows for table in stage.tables} for stage in published_by(result)}

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the database as a reader does who knows nothing of us."""
        return self.database.query(sql)

    def places(self, stage: str | None = None) -> dict[str, str]:
        """Return the schema of each table that readers see; published by views, what was not made has not moved.

        Args:
            stage: Only of this stage.
        """
        rows = self.query(
            "select stage, name, container from pipedag_metadata.object join pipedag_metadata.stage using (stage)"
            " where generation = live and kind = 'table'"
        )
        return {name: container for of, name, container in rows if stage in (of, None)}

    def objects(self, pattern: str, kind: str = "%") -> set[str]:
        """Return the tables and views whose schemas are like a pattern, such as ``one__g*``, each with its schema.

        Args:
            pattern: A pattern as for the names of files.
            kind: ``BASE TABLE`` or ``VIEW``, if not both.
        """
        rows = self.query(f"{self.database.tables} where table_type like '{kind}'")
        return {f"{schema}.{name}" for schema, name in rows if fnmatchcase(schema, pattern)}

    def schemas(self) -> set[str]:
        """Return the schemas that have a table or view."""
        return {schema for schema, _ in self.query(self.database.tables)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a module that says ``pytestmark = pytest.mark.databases(...)`` on each of these."""
    marker = metafunc.definition.get_closest_marker("databases")
    if marker is not None and "database" in metafunc.fixturenames:
        metafunc.parametrize("database", marker.args, indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database; in DuckDB where a test does not say otherwise."""
    if getattr(request, "param", "duckdb") == "duckdb":
        return Database(duckdb_url(tmp_path / "pipeline.duckdb"))
    return Postgres.of(request.getfixturevalue("postgres_url"))


@pytest.fixture
def project(tmp_path: Path, database: Database) -> Project:
    return Project(tmp_path, database)


@pytest.fixture
def report_takeover(record_property: Callable[[str, object], None]) -> Callable[[float, float], None]:
    """Report at the end of the test session how long it took until a stage had another holder.

    To be called with these seconds, and those for which the session of the holder before lasts unheard.
    """
    return lambda seconds, timeout: record_property("takeover", f"{seconds:.1f} s, with sessions of {timeout:g} s")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    takeovers = [
        f"{report.nodeid}: {shown}"
        for report in reports
        for name, shown in getattr(report, "user_properties", ())
        if name == "takeover" and report.when == "call"
    ]
    if takeovers:
        terminalreporter.section("take-over of a stage in ZooKeeper")
    for line in takeovers:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def project_in() -> Callable[[Path], Project]:
    """Makes a project in DuckDB in an empty folder, for tests that need more than one."""
    return lambda folder: Project(folder, Database(duckdb_url(folder / "pipeline.duckdb")))


@pytest.fixture(scope="session")
def new_project(request: pytest.FixtureRequest) -> Callable[[str], AbstractContextManager[Project]]:
    """Makes an empty project in a database of a kind for a block, for tests that need one for each example."""

    @contextmanager
    def make(kind: str) -> Iterator[Project]:
        with TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            if kind == "duckdb":
                yield Project(folder, Database(duckdb_url(folder / "pipeline.duckdb")))
            else:
                url = stack.enter_context(request.getfixturevalue("postgres").database())
                yield Project(folder, Postgres.of(url))

    return make
