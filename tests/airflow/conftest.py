from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from pipedag_airflow.backend.metadata import GenerationState, ObjectKind, TaskState
from pipedag_airflow.config import PipedagConfig
from pipedag_airflow.testing.airflow import LocalAirflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipedag_airflow import ConfigContext
    from pipedag_airflow.backend.metadata import GenerationRecord, ObjectRecord, TaskRecord

#: What the metadata may say of a task of the user's, by the state in which Airflow shows it.
TASK_STATES: dict[str | None, set[TaskState | None]] = {
    "success": {TaskState.EXECUTED},
    "skipped": {TaskState.VALID},
    "failed": {TaskState.FAILED},
    "upstream_failed": {TaskState.PENDING, None},
}
#: Likewise of the generation, by the state of the stage's commit.
GENERATION_STATES: dict[str | None, set[GenerationState]] = {
    "success": {GenerationState.PUBLISHED, GenerationState.UNCHANGED},
    "skipped": {GenerationState.UNCHANGED},
    "failed": {GenerationState.OPEN, GenerationState.ABANDONED},
    "upstream_failed": {GenerationState.OPEN, GenerationState.ABANDONED},
}

YAML = """
name: {name}
instances:
  __any__:
    instance_id: {name}
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

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir()
        super().__init__(folder / "airflow", env={"PIPEDAG_HOME": str(self.data)})


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

    def __init__(self, airflow: FlowAirflow, name: str) -> None:
        self.airflow = airflow
        self.client = airflow.client
        self.name = name
        self.folder = airflow.dags_folder / name
        self.data = airflow.data / name
        self.folder.mkdir()
        self.data.mkdir()
        (self.folder / "pipedag.yaml").write_text(YAML.format(name=name, data=self.data))

    def write(self, text: str, *, flow: str | None = None) -> None:
        """Write the file of a flow, and wait until Airflow has read it."""
        dag_id = flow or self.name
        file = f"{self.name}/{dag_id}.py"
        now = datetime.now(UTC)
        (self.airflow.dags_folder / file).write_text(text)
        self.client.wait_dag(dag_id, file=file, parsed_after=now)
        self.client.unpause(dag_id)

    def run(self, flow: str | None = None) -> FlowRun:
        return self.finished(self.client.trigger(flow or self.name), flow)

    def clear(self, run: FlowRun, *task_ids: str) -> FlowRun:
        """Clear tasks with all that follow them, and wait for the end of the run."""
        self.client.clear(run.dag_id, run.run_id, task_ids, downstream=True)
        return self.finished(run.run_id, run.dag_id)

    def finished(self, run_id: str, flow: str | None = None) -> FlowRun:
        """Wait for the end of a run; whatever it was, Airflow's view of it and the data agree."""
        dag_id = flow or self.name
        state = self.client.wait_run(dag_id, run_id, timeout=120)["state"]
        tasks = {task["task_id"]: task for task in self.client.task_instances(dag_id, run_id)}
        run = FlowRun(dag_id, run_id, state, tasks)
        self.check(run)
        return run

    def log(self, run: FlowRun, node: str) -> str:
        return self.client.log(run.dag_id, run.run_id, node, try_number=run.tasks[node]["try_number"])

    def config(self) -> ConfigContext:
        return PipedagConfig(self.folder).get()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the database as a reader does who knows nothing of us."""
        import duckdb

        with duckdb.connect(str(self.data / "pipeline.duckdb"), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def tables(self) -> dict[str, int]:
        """Return the rows of everything that readers see."""
        names = self.query(
            "select table_schema, table_name from information_schema.tables "
            "where table_schema not like '%\\_\\_g%' escape '\\' and table_schema != 'pipedag_metadata'"
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
            metadata = transaction.metadata
            of_run = metadata.generations(run_id=f"airflow:{run.dag_id}/{run.run_id}")
            generations = {record.stage: record for record in of_run}
            live = [(stage.stage, stage.live) for stage in metadata.all_stages() if stage.live is not None]
            rows = {
                row.node: row for record in generations.values() for row in metadata.read_tasks([_place(record)])
            }
            published = _tables(metadata.read_tasks(live))
        for node, task in run.tasks.items():
            stage, _, label = node.rpartition(".")
            assert _agrees(label, task["state"], rows.get(node), generations.get(stage)), (
                f"{node} is {task['state']} in Airflow, but {rows.get(node)} in {generations.get(stage)}"
            )
        assert self.tables() == {f"{table.stage}.{table.name}": table.rows for table in published}


def _place(record: GenerationRecord) -> tuple[str, int]:
    return record.stage, record.number


def _tables(rows: list[TaskRecord]) -> list[ObjectRecord]:
    objects = (stored for row in rows if row.twin is None for stored in row.objects)
    return [stored for stored in objects if stored.kind is ObjectKind.TABLE]


def _agrees(label: str, state: str | None, row: TaskRecord | None, generation: GenerationRecord | None) -> bool:
    if label == "begin_transaction":
        return (state == "success") == (generation is not None)
    if generation is None:
        return state == "upstream_failed"
    if label == "commit_transaction":
        return generation.state in GENERATION_STATES[state]
    if generation.state is GenerationState.UNCHANGED:
        return state == "skipped"
    return (row.state if row is not None else None) in TASK_STATES[state]


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlowAirflow]:
    """The one Airflow of the test session: put a flow file in `airflow.dags_folder`, under a name that no test has."""
    with FlowAirflow(tmp_path_factory.mktemp("airflow")) as airflow:
        yield airflow


@pytest.fixture(scope="module")
def flows(airflow: FlowAirflow) -> Callable[[str], FlowFolder]:
    """Make a folder for flows; its name is that of its instance."""
    return lambda name: FlowFolder(airflow, name)
