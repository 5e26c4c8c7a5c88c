from __future__ import annotations

import json
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
import yaml
from canary import CANARY
from looking import eventually

from pipedag_airflow.backend.metadata import GenerationState, ObjectKind, TaskState
from pipedag_airflow.config import PipedagConfig
from pipedag_airflow.testing.airflow import LocalAirflow

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from pipedag_airflow import ConfigContext
    from pipedag_airflow.backend.metadata import MetadataRepository, ObjectRecord, TaskRecord
    from pipedag_airflow.testing.postgres import PostgresServer

YAML = """
name: {name}
instances:
  __any__:
    instance_id: {name}
    lease_seconds: 20
    stage_commit_technique: read_views
    auto_table: [pandas.DataFrame, polars.DataFrame]
    table_store:
      class: pipedag_airflow.backend.table.SQLTableStore
      args: {{url: "duckdb:///{data}/pipeline.duckdb"}}
    blob_store:
      class: pipedag_airflow.backend.blob.FileBlobStore
      args: {{base_path: "{data}/blobs"}}
    lock_manager:
      class: pipedag_airflow.backend.lock.FileLockManager
      args: {{base_path: "{data}/locks"}}
    orchestration:
      class: pipedag_airflow.engine.SequentialEngine
"""


class FlowAirflow(LocalAirflow):
    """A local Airflow whose flows keep their data in a folder next to its home."""

    def __init__(self, folder: Path, database_url: str, settings: dict[str, str]) -> None:
        self.data = folder / "data"
        self.lineage = folder / "lineage.jsonl"
        self.data.mkdir()
        #: A folder of flows whose runs keep their code.
        self.snapshots = folder / "snapshots"
        self.snapshots.mkdir()
        bundles = [
            ("dags-folder", "airflow.dag_processing.bundles.local.LocalDagBundle", {}),
            ("snapshots", "pipedag_airflow.provider.bundles.SnapshotDagBundle", {"path": str(self.snapshots)}),
        ]
        env = {
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(
                [{"name": name, "classpath": classpath, "kwargs": kwargs} for name, classpath, kwargs in bundles]
            ),
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(folder / "bundles"),
            "PIPEDAG_HOME": str(self.data),
            "CANARY": CANARY,
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            # Lineage goes to a file, of the DAGs that ask for it.
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(self.lineage), "append": True}
            ),
            "AIRFLOW__OPENLINEAGE__SELECTIVE_ENABLE": "True",
            # How long the triggers of a triggerer that is dead wait for another one.
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
            # Files that have not changed are parsed seldom: to parse them is a third of what this Airflow does.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
            # A machine that is busy with other tests is no dead task, and no request that was lost.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "300",
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            **settings,
        }
        super().__init__(folder / "airflow", env=env, database_url=database_url)

    @contextmanager
    def database(self) -> Iterator[sa.Connection]:
        """Have a transaction in Airflow's own database."""
        engine = sa.create_engine(self.database_url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            yield connection


@dataclass(frozen=True)
class FlowRun:
    """A run that is over, as Airflow shows it."""

    dag_id: str
    run_id: str
    state: str
    tasks: dict[str, dict[str, Any]]

    @property
    def states(self) -> dict[str, str | None]:
        return {node: task["state"] for node, task in self.tasks.items()}

    @property
    def executed(self) -> set[str]:
        """The tasks of the user's that were executed; neither begins nor commits."""
        return {node for node in self._with("success") if not node.endswith("_transaction")}

    @property
    def skipped(self) -> set[str]:
        return self._with("skipped")

    @property
    def processes(self) -> set[str]:
        """What had a process: begin skips without starting one."""
        return {node for node, task in self.tasks.items() if task["try_number"] > 0}

    def _with(self, state: str) -> set[str]:
        return {node for node, shown in self.states.items() if shown == state}


class FlowFolder:
    """Flow files in a folder of Airflow's, with a pipedag.yaml and so an instance of their own."""

    def __init__(self, airflow: FlowAirflow, name: str, root: Path | None = None) -> None:
        self.airflow = airflow
        self.client = airflow.client
        self.name = name
        self.folder = (root or airflow.dags_folder) / name
        self.data = airflow.data / name
        self.folder.mkdir()
        self.data.mkdir()
        self.file = self.folder / "pipedag.yaml"
        self.file.write_text(YAML.format(name=name, data=self.data))

    def configure(self, **parts: Any) -> None:
        """Replace parts of the configuration."""
        content = yaml.safe_load(self.file.read_text())
        content["instances"]["__any__"].update(parts)
        self.file.write_text(yaml.safe_dump(content))

    def write(self, text: str, *, flow: str | None = None) -> None:
        """Write the file of a flow, and wait until Airflow has read it."""
        dag_id = flow or self.name
        file = f"{self.name}/{dag_id}.py"
        now = datetime.now(UTC)
        (self.folder / f"{dag_id}.py").write_text(text)
        dag = self.client.wait_dag(dag_id, file=file, parsed_after=now)
        assert dag["relative_fileloc"] == file, f"{dag['relative_fileloc']} has a DAG of the name {dag_id}, too"
        self.client.unpause(dag_id)

    def remove_files(self) -> None:
        """Remove the files of flows, so that Airflow does not go on parsing them."""
        for file in self.folder.glob("*.py"):
            file.unlink()

    def run(self, flow: str | None = None) -> FlowRun:
        return self.finished(self.client.trigger(flow or self.name), flow)

    def clear(self, run: FlowRun, *task_ids: str) -> FlowRun:
        """Clear tasks with all that follow them, and wait for the end of the run."""
        self.client.clear(run.dag_id, run.run_id, task_ids, downstream=True)
        return self.finished(run.run_id, run.dag_id)

    def finished(self, run_id: str, flow: str | None = None) -> FlowRun:
        """Wait for the end of a run; whatever it was, Airflow's view of it and the data agree."""
        dag_id = flow or self.name
        state = self.client.wait_run(dag_id, run_id, timeout=240)["state"]
        tasks = {task["task_id"]: task for task in self.client.task_instances(dag_id, run_id)}
        run = FlowRun(dag_id, run_id, state, tasks)
        self.check(run)
        return run

    def wait_task(self, flow: str, run_id: str, node: str, state: str) -> None:
        """Wait until a task instance is in a state."""
        states = partial(self.client.states, flow, run_id)
        eventually(lambda: states()[node] == state, instead=states)

    def wait_until_free(self) -> None:
        """Wait until no stage is held."""
        with self.config().create_lock_manager() as locks:
            eventually(lambda: not locks.leases(), instead=locks.leases)

    def wait_import_error(self, file: str) -> str:
        """Wait until Airflow shows an import error of a file, and return its text."""
        errors = self.client.import_errors
        found = eventually(lambda: [error for error in errors() if error["filename"] == file], instead=errors)
        return str(found[0]["stack_trace"])

    def wait_no_import_errors(self) -> None:
        """Wait until Airflow shows no import error of any file in this folder, as what it told of has been mended."""
        errors = self.client.import_errors
        eventually(lambda: not [error for error in errors() if error["filename"].startswith(self.name)], instead=errors)

    def log(self, run: FlowRun, node: str) -> str:
        return self.client.log(run.dag_id, run.run_id, node, try_number=run.tasks[node]["try_number"])

    def config(self) -> ConfigContext:
        return PipedagConfig(self.folder).get()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the database as a reader does who knows nothing of us, as soon as no other process has the file."""
        # A connection of Airflow's in its place is that of a DuckDB file.
        url = sa.make_url(self.config().config_dict["table_store"]["args"].get("url", "duckdb://"))
        if url.get_backend_name() != "duckdb":
            with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
                return [tuple(row) for row in connection.execute(sa.text(sql))]
        return eventually(partial(self._query_duckdb, sql))[0]

    def _query_duckdb(self, sql: str) -> list[list[tuple[Any, ...]]]:
        """Return the rows as the one element of a list, and an empty list while another process has the file."""
        import duckdb

        try:
            with duckdb.connect(str(self.data / "pipeline.duckdb"), read_only=True) as connection:
                return [connection.execute(sql).fetchall()]
        except duckdb.IOException as error:
            # A run that is over gives its stages back; a step that outlives its run finds out that it has lost.
            if "Conflicting lock" not in str(error):
                raise
            return []

    def tables(self) -> dict[str, int]:
        """Return the rows of everything that readers see."""
        names = self.query(
            "select table_schema, table_name from information_schema.tables "
            "where table_schema not like '%\\_\\_g%' escape '\\' "
            "and table_schema not in ('pipedag_metadata', 'pg_catalog', 'information_schema')"
        )
        return {
            f"{schema}.{name}": self.query(f'select count(*) from "{schema}"."{name}"')[0][0] for schema, name in names
        }

    def live(self) -> dict[str, int | None]:
        """Return the published generation of each stage."""
        with self.config().table_store.transaction() as transaction:
            return {stage.stage: stage.live for stage in transaction.metadata.all_stages()}

    def check(self, run: FlowRun) -> None:
        """Compare Airflow's view of every task instance with the metadata, and the metadata with the data."""
        with self.config().table_store.transaction() as transaction:
            history = _History.of(transaction.metadata, f"airflow:{run.dag_id}/{run.run_id}")
        for node, state in run.states.items():
            assert state in history.shown_as(node), f"{node} is {state} in Airflow, but in the metadata: {history}"
        self.check_data()

    def check_data(self) -> None:
        """Compare the metadata with the data."""
        with self.config().table_store.transaction() as transaction:
            metadata = transaction.metadata
            live = [(stage.stage, stage.live) for stage in metadata.all_stages() if stage.live is not None]
            published = _tables(metadata.read_tasks(live))
        assert self.tables() == {f"{table.stage}.{table.name}": table.rows for table in published}


@dataclass(frozen=True)
class _History:
    """What the metadata know of a run; a run that was cleared may have had several generations of a stage."""

    generations: dict[str, GenerationState]
    tasks: dict[str, list[TaskState]]

    @classmethod
    def of(cls, metadata: MetadataRepository, run_id: str) -> _History:
        generations: dict[str, GenerationState] = {}
        tasks: dict[str, list[TaskState]] = {}
        for record in metadata.generations(run_id=run_id):
            generations[record.stage] = record.state
            for row in metadata.read_tasks([(record.stage, record.number)]):
                tasks.setdefault(row.node, []).append(row.state)
        return cls(generations, tasks)

    def shown_as(self, node: str) -> set[str]:
        """Return the states in which Airflow may show a task instance."""
        stage, _, label = node.rpartition(".")
        generation = self.generations.get(stage)
        if generation is None:
            return {"upstream_failed"}
        if label == "begin_transaction":
            return {"success"}
        if label == "commit_transaction":
            return _SHOWN_COMMITS[generation]
        *before, last = self.tasks.get(node) or [TaskState.VALID]
        # Valid because this run executed it before: Airflow shows that, or what a later begin said.
        return _SHOWN_TASKS[last] | ({"success"} if last is TaskState.VALID and TaskState.EXECUTED in before else set())


_SHOWN_TASKS = {
    TaskState.VALID: {"skipped"},
    TaskState.EXECUTED: {"success"},
    TaskState.FAILED: {"failed"},
    TaskState.PENDING: {"upstream_failed"},
}
_SHOWN_COMMITS = {
    GenerationState.PUBLISHED: {"success"},
    GenerationState.UNCHANGED: {"skipped", "success", "upstream_failed"},  # a nested stage may go on, or fail
    GenerationState.OPEN: {"failed", "upstream_failed"},
    GenerationState.ABANDONED: {"failed", "upstream_failed"},
}


def _tables(rows: list[TaskRecord]) -> list[ObjectRecord]:
    objects = (stored for row in rows if row.twin is None for stored in row.objects)
    return [stored for stored in objects if stored.kind is ObjectKind.TABLE]


@pytest.fixture(scope="session")
def fresh_airflow(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer
) -> Callable[[dict[str, str]], AbstractContextManager[FlowAirflow]]:
    """Starts an Airflow with settings of its own, for tests that would harm those of others."""

    @contextmanager
    def start(settings: dict[str, str]) -> Iterator[FlowAirflow]:
        with postgres.database() as url:
            _end_transactions_of_the_dead(url)
            database_url = url.render_as_string(hide_password=False)
            with FlowAirflow(tmp_path_factory.mktemp("airflow"), database_url, settings) as airflow:
                yield airflow

    return start


def _end_transactions_of_the_dead(url: sa.URL) -> None:
    """End what nobody goes on with: the workers of a LocalExecutor keep the connection of a scheduler that is dead."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"alter database \"{url.database}\" set idle_in_transaction_session_timeout = '20s'")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show, with a test that failed, what went wrong in its Airflow meanwhile: on a busy machine it repeats tries."""
    report = yield
    airflow = getattr(item, "funcargs", {}).get("airflow")
    if report.failed and airflow is not None:
        report.sections.append(("What went wrong in Airflow", "\n".join(_what_went_wrong(airflow, call.start))))
    return report


def _what_went_wrong(airflow: FlowAirflow, since: float) -> Iterator[str]:
    """Give the ends of the logs of the tries that Airflow repeated, and what its scheduler calls errors."""
    for log in sorted(airflow.log_folder.glob("dag_id=*/run_id=*/task_id=*/attempt=[0-9].log")):
        number = int(log.stem.removeprefix("attempt="))
        if log.stat().st_mtime >= since and log.with_stem(f"attempt={number + 1}").exists():
            yield str(log.relative_to(airflow.log_folder))
            yield from map(_log_line, log.read_text().splitlines()[-25:])
    begin = datetime.fromtimestamp(since, UTC).isoformat()
    for line in (airflow.log_folder / "scheduler.log").read_text().splitlines():
        if line >= begin and "[error " in line:
            yield line


def _log_line(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:  # the last one of a process that was killed
        return line
    errors = [f"{error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail", ())]
    return " ".join([entry["timestamp"], entry["level"], entry["event"], *errors])


_idle: list[FlowAirflow] = []


def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Stop Airflow after the last test of this folder: doing nothing, it takes a quarter of a processor."""
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        while _idle:
            _idle.pop().stop()


@pytest.fixture(scope="session")
def airflow(fresh_airflow: Callable[[dict[str, str]], AbstractContextManager[FlowAirflow]]) -> Iterator[FlowAirflow]:
    """The one Airflow of the test session: put a flow file in `airflow.dags_folder`, under a name that no test has."""
    with fresh_airflow({}) as airflow:
        _idle.append(airflow)
        yield airflow


@pytest.fixture(scope="module")
def flows(airflow: FlowAirflow) -> Iterator[Callable[[str], FlowFolder]]:
    """Make a folder for flows; its name is that of its instance."""
    folders: list[FlowFolder] = []

    def make(name: str) -> FlowFolder:
        folders.append(FlowFolder(airflow, name))
        return folders[-1]

    yield make
    for folder in folders:
        folder.remove_files()


@pytest.fixture
def snapshots(airflow: FlowAirflow) -> Callable[[str], FlowFolder]:
    """Make a folder for flows whose runs keep their code."""
    return lambda name: FlowFolder(airflow, name, airflow.snapshots)
