"""Steps of runs in any order, twice, late or not to their end: what readers see is always the whole stage of one run.

The model is small: which run published which stage last, and what it had read. Against it are held
G1 (a stage is seen as a whole), G2 (a killed step leaves old or new, and the next run goes on), G3 (one run publishes a
generation, and whoever lost the stage is told to whom), G4 (a step that happens twice has the same outcome) and
G10 (what was read is what was recorded). Each task makes two tables, so that a reader could see a mixture. Two of the
runs are made of steps of their own, one lives and dies with a process. `pytest --hypothesis-profile=long` looks longer.
"""

from __future__ import annotations

import functools
import itertools
import socket
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import attrs
import polars as pl
import pytest
import sqlalchemy as sa
from conftest import Database, Postgres, Project
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.backend.lock.process import pid_space, process_started
from pipedag_airflow.backend.metadata import GenerationState
from pipedag_airflow.config.embedded import duckdb_url
from pipedag_airflow.errors import CacheError, StageBusyError, StageError, StaleRunError
from pipedag_airflow.run import begin as begin_module
from pipedag_airflow.run import publish as publish_module
from pipedag_airflow.run import storing
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.leases import break_lease
from pipedag_airflow.run.publish import STEPS, publish
from pipedag_airflow.run.session import RunSession

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipedag_airflow.backend.lock import Lease

#: Whose process is its life; of the others the orchestrator says when they are over.
LOCAL = "local:flow"
RUNS = ["airflow:flow/0", "airflow:flow/1", LOCAL]
TASKS = {"source": "source.one", "target": "target.two"}
CRASH_POINTS = [
    "begin.opened",
    "begin.decided",
    "execute.before_store",
    "execute.stored",
    *(f"publish.{step.__name__}" for step in STEPS),
    "publish.committed",
]

runs = st.sampled_from(RUNS)
stages = st.sampled_from(sorted(TASKS))


class KilledError(BaseException):
    """The process of a step ends here."""


@attrs.frozen
class Seen:
    """What readers see of a stage, and what the metadata say of it."""

    number: int
    run: str
    content: tuple[str, ...]
    versions: tuple[str, ...]
    inputs: str


class StepsInAnyOrder(RuleBasedStateMachine):
    """Three runs of one flow, each with its own version of the tasks."""

    def __init__(self, make_project: Callable[[], Project]) -> None:
        super().__init__()
        #: What the session form of a lease looks at: whether this process is there, and the same.
        self.process = subprocess.Popen(["sleep", "infinity"])
        # One configuration for all: opening a file for each step takes longer than the step.
        self.config = make_project().config()
        self.file = ExitStack()
        self.file.enter_context(self.config.table_store.kept_open())
        self.over: set[str] = set()
        self.crash_at: str | None = None
        self.meanwhile: Callable[[], None] | None = None
        self.revision = itertools.count(1)
        self.sessions = {run: self.session(run) for run in [*RUNS, "last"]}
        #: The model: what each stage shows, and what was read by whoever has read inputs of a name.
        self.shown: dict[str, Seen] = {}
        self.filed: dict[str, str] = {}
        self.patch = pytest.MonkeyPatch()
        for module in (begin_module, storing, publish_module):
            self.patch.setattr(module, "crash_point", self.crash_point)

    def session(self, run: str) -> RunSession:
        @materialize(version=run)
        def one() -> tuple[Table[Any], Table[Any]]:
            self.pause()
            return Table(pl.DataFrame({"source": [run]}), "one"), Table(pl.DataFrame({"source": [run]}), "one_more")

        @materialize(version=run, input_type=pl.DataFrame)
        def two(table: pl.DataFrame, more: pl.DataFrame) -> tuple[Table[Any], Table[Any]]:
            self.pause()
            made = [frame.with_columns(target=pl.lit(run)) for frame in (table, more)]
            return Table(made[0], "two"), Table(made[1], "two_more")

        with Flow("flow") as flow:
            with Stage("source"):
                made = one()
            with Stage("target"):
                two(made[0], made[1])
        return RunSession(flow, self.config, self.owner(run), engine="test", is_over=self.is_over)

    def owner(self, run: str) -> Owner:
        if run != LOCAL:
            return Owner.of_run(run)
        pid = self.process.pid
        return Owner(run, socket.gethostname(), pid, process_started(pid), pid_space())

    def is_over(self, lease: Lease) -> bool:
        """What the orchestrator says: nothing of a run that is a process."""
        return lease.owner.run_id in self.over - {LOCAL}

    def end(self, run: str) -> None:
        self.over.add(run)
        if run == LOCAL:
            self.process.kill()
            self.process.wait()

    def crash_point(self, name: str) -> None:
        if name == self.crash_at:
            self.crash_at = None
            raise KilledError

    def pause(self) -> None:
        """What happens in the middle of a task."""
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()

    # --- the rules --------------------------------------------------------------------------------------------------

    @rule(run=runs, stage=stages)
    def begins(self, run: str, stage: str) -> None:
        self.step(run, stage, lambda session: begin(session, stage))

    @rule(run=runs, stage=stages)
    def writes(self, run: str, stage: str) -> None:
        self.step(run, stage, lambda session: execute(session, TASKS[stage]))

    @rule(run=runs, stage=stages)
    def publishes(self, run: str, stage: str) -> None:
        self.step(run, stage, lambda session: publish(session, stage))

    @rule(run=runs, stage=stages)
    def builds(self, run: str, stage: str) -> None:
        """The three steps in their order, each of which may be refused."""
        self.begins(run, stage)
        self.writes(run, stage)
        self.publishes(run, stage)

    @rule(run=runs, stage=stages)
    def is_cleared(self, run: str, stage: str) -> None:
        """A user asks to build the task anew, also of a stage that is published."""
        self.step(run, stage, lambda session: execute(session, TASKS[stage], revision=next(self.revision)))

    @rule(run=runs)
    def ends(self, run: str) -> None:
        """The orchestrator says that the run is over, or its process dies. Steps of it may still be on their way."""
        self.end(run)

    @rule(run=runs, thief=runs, stage=stages)
    def is_paused_in_a_task_while_its_stage_is_stolen(self, run: str, thief: str, stage: str) -> None:
        def meanwhile() -> None:
            self.end(run)
            self.builds(thief, stage)

        self.meanwhile = meanwhile
        self.is_cleared(run, stage)
        self.meanwhile = None

    @rule(run=runs, stage=stages, point=st.sampled_from(CRASH_POINTS))
    def is_killed(self, run: str, stage: str, point: str) -> None:
        self.crash_at = point
        self.builds(run, stage)
        self.crash_at = None

    @rule(stage=stages)
    def lease_is_broken(self, stage: str) -> None:
        if self.config.lock_manager.holder(stage) is not None:
            break_lease(self.config, stage)

    def teardown(self) -> None:
        for run in RUNS:
            self.end(run)
        for stage in TASKS:
            self.builds("last", stage)
        assert [self.shown[stage].content for stage in TASKS] == [("last",), ("last", "last")]
        self.patch.undo()
        self.file.close()
        self.config.lock_manager.dispose()
        self.config.table_store.dispose()

    # --- what has to be ---------------------------------------------------------------------------------------------

    def step(self, run: str, stage: str, action: Callable[[RunSession], Any]) -> None:
        """Do a step of a run, and compare what became of it with the model."""
        session = self.sessions[run]
        try:
            action(session)
        except StageBusyError as busy:
            self.is_held(session, stage, str(busy))
        except StaleRunError as stale:
            self.is_taken(session, stage, str(stale))
        except (CacheError, StageError, KilledError):
            pass  # an input or a task is missing; or the process is gone
        self.compare(run)

    def is_held(self, session: RunSession, stage: str, message: str) -> None:
        """Whoever is refused is told which living run holds the stage."""
        holder = session.locks.holder(stage)
        assert session.locks.guards
        assert holder is not None
        assert holder.owner.run_id not in {session.run_id, *self.over}
        assert f"held by run {holder.owner.run_id} on host" in message
        session.locks.withdraw(stage, session.owner)

    def is_taken(self, session: RunSession, stage: str, message: str) -> None:
        """Whoever lost the stage is told which run has it, or that somebody took it away."""
        with session.store.transaction() as transaction:
            newest = transaction.metadata.latest_generation(stage)
        if newest is None:
            assert f"was never begun by run '{session.run_id}'" in message
            return
        assert newest.run_id in message
        if newest.run_id == session.run_id and newest.state is not GenerationState.ABANDONED:
            assert f"generation {newest.number}," in message  # it has begun the stage anew by itself

    def compare(self, run: str) -> None:
        for stage, seen in self.look().items():
            before = self.shown.get(stage)
            if before is not None and before.number == seen.number:
                assert seen == before
                continue
            assert seen.run == run
            assert before is None or seen.number > before.number
            assert seen.content[-1] == run
            assert seen.versions == (run,)
            if stage == "target":
                assert self.filed.setdefault(seen.inputs, seen.content[0]) == seen.content[0]
            self.shown[stage] = seen

    def look(self) -> dict[str, Seen]:
        """Look as a reader does who reads the metadata, too, all in one transaction."""
        found = {}
        store = self.config.table_store
        with store.transaction() as transaction:
            newest = {(record.stage, record.number): record for record in transaction.metadata.generations()}
            for record in transaction.metadata.stages(TASKS).values():
                if record.live is None:
                    continue
                generation = newest[record.stage, record.live]
                assert generation.state is GenerationState.PUBLISHED
                (task,) = transaction.metadata.read_tasks([(record.stage, record.live)])
                places = [sa.table(made.name, schema=store.schema(record.stage)) for made in task.objects]
                both = sa.union_all(*(sa.select(sa.text("*")).select_from(place) for place in places))
                first, second = transaction.connection.execute(both).all()
                assert first == second
                found[record.stage] = Seen(
                    record.live, generation.run_id, tuple(first), (str(task.version),), str(task.input_hash)
                )
        return found


#: Where the leases are, and in which database the data.
KINDS = [
    "NoLockManager-duckdb",
    "FileLockManager-duckdb",
    "DatabaseLockManager-duckdb",
    "DatabaseLockManager-postgres",
    "ZooKeeperLockManager-duckdb",
]


@pytest.fixture
def make_project(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Project]:
    """Make a project with data of its own, one for each history."""
    manager, database = request.param.split("-")
    numbers = itertools.count(1)

    def make() -> Project:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        if database == "duckdb":
            project = Project(folder, Database(duckdb_url(folder / "pipeline.duckdb")))
        else:
            url: sa.URL = request.getfixturevalue("postgres_url")
            project = Project(folder, Postgres(url.render_as_string(hide_password=False)))
            project.settings["table_store"]["args"]["schema_prefix"] = f"h{folder.name}_"
        arguments = {}
        if manager == "FileLockManager":
            arguments["base_path"] = str(folder / "locks")
        if manager == "ZooKeeperLockManager":
            arguments["hosts"] = request.getfixturevalue("zookeeper_server").hosts
            project.settings["instance_id"] = f"h{folder.name}"  # below which the leases are
        project.settings["lock_manager"] = {"class": f"pipedag_airflow.backend.lock.{manager}", "args": arguments}
        return project

    return make


@pytest.mark.parametrize("make_project", KINDS, indirect=True)
def test_whatever_the_order_of_steps_readers_see_one_run_at_a_time(make_project: Callable[[], Project]) -> None:
    run_state_machine_as_test(
        functools.partial(StepsInAnyOrder, make_project),
        settings=settings(
            # A second of a processor for each history, most of it in the database.
            max_examples=settings.default.max_examples // 16,
            stateful_step_count=20,
            deadline=None,
            # Others each time; what is printed of one that fails brings it back.
            derandomize=False,
            print_blob=True,
            # A history that fails is shown as it is.
            phases=[Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
