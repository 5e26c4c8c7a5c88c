"""A run whose lock manager does not know whether it still holds its stage writes nothing until that is known."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.backend.lock import LockState
from pipedag_airflow.errors import LockError, StaleRunError
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Project

    from pipedag_airflow.backend.lock import LockManager


def flow_with(inside: Callable[[], object], *, materialized: bool = False) -> Flow:
    @materialize(version=None)
    def task() -> Table[Any]:
        inside()
        table = Table(pl.DataFrame({"x": [1]}), "t")
        return table.materialize() if materialized else table

    with Flow("doubt") as flow, Stage("s"):
        task()
    return flow


def notes(locks: LockManager, state: LockState) -> None:
    """Let the manager note a state as it does when its connection is lost or found."""
    holder = locks.holder("s")
    assert holder is not None
    locks.observe("s", holder.owner, state)


@pytest.mark.parametrize("materialized", [False, True], ids=["result", "in mid-task"])
def test_a_run_that_has_lost_its_stage_stores_nothing(project: Project, materialized: bool) -> None:
    config = project.config()
    flow = flow_with(lambda: notes(config.lock_manager, LockState.INVALID), materialized=materialized)
    with pytest.raises(StaleRunError, match=r"has lost stage 's'\. Nothing of it is published"):
        project.run(flow, config=config)
    assert project.query("select count(*) from pipedag_metadata.object") == [(0,)]
    assert not {schema for schema in project.schemas() if schema.startswith("s__g")}


def test_a_run_waits_until_it_is_known_that_it_holds_its_stage(project: Project) -> None:
    config = project.config()
    found_again = threading.Timer(0.2, notes, (config.lock_manager, LockState.LOCKED))

    def inside() -> None:
        notes(config.lock_manager, LockState.UNCERTAIN)
        found_again.start()

    result = project.run(flow_with(inside), config=config)
    assert found_again.finished.is_set()
    assert result.successful


@pytest.mark.parametrize("step", ["begin", "execute", "publish"])
def test_a_step_that_is_never_sure_fails_and_stores_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    session = project.session(flow_with(lambda: None))
    steps = {
        "begin": lambda: begin(session, "s"),
        "execute": lambda: execute(session, "s.task"),
        "publish": lambda: publish(session, "s"),
    }
    for name, call in steps.items():
        if name == step:
            break
        call()

    def doubt(stage: str, owner: object, *, seconds: float) -> None:
        assert seconds == session.lease_seconds
        raise LockError(f"it is not known who holds {stage}")

    with monkeypatch.context() as patch:
        patch.setattr(session.locks, "confirm", doubt)
        with pytest.raises(LockError, match="not known who holds s"):
            steps[step]()
    executed = project.query("select node from pipedag_metadata.task where state = 'executed'")
    assert executed == ([("s.task",)] if step == "publish" else [])
    assert project.query("select live from pipedag_metadata.stage") == [(None,)]
    for call in list(steps.values())[list(steps).index(step) :]:
        call()
    assert project.query("select x from s.t") == [(1,)]
