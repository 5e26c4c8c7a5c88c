"""Stages that stay locked beyond the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import polars as pl
import pytest

from pipedag_airflow import Flow, Stage, StageLockContext, Table, materialize
from pipedag_airflow.backend.lock import FileLockManager, Owner
from pipedag_airflow.errors import CacheError, StageBusyError
from pipedag_airflow.run.heartbeat import RunHeartbeat
from pipedag_airflow.testing.lock_fixtures import until

if TYPE_CHECKING:
    from conftest import Project

    from pipedag_airflow.backend.lock import Lease, LockManager


def flow() -> Flow:
    @materialize(version="1")
    def task(value: int) -> int:
        return value

    with Flow("flow") as flow:
        with Stage("one"):
            made = task(1)
        with Stage("two"):
            task(made)
    return flow


def test_stages_stay_locked_until_the_block_ends_and_runs_within_it_share_them(project: Project) -> None:
    locks = project.config().lock_manager
    with StageLockContext():
        project.run(flow())
        assert [locks.holder(stage) is not None for stage in ("one", "two")] == [True, True]
        project.run(flow(), "two.task")
        with StageLockContext():
            project.run(flow(), "stage:one")
        assert [locks.holder(stage) is not None for stage in ("one", "two")] == [False, True]
    assert [locks.holder(stage) for stage in ("one", "two")] == [None, None]


def on_another_host(locks: LockManager, stage: str) -> Lease:
    """Let the lease of a stage look as if its process were on another host, where it cannot be seen."""
    lease = locks.holder(stage)
    assert lease is not None
    assert isinstance(locks, FileLockManager)
    there = attrs.evolve(lease, owner=attrs.evolve(lease.owner, host="elsewhere"))
    locks._change(stage, lambda record: (attrs.evolve(record, lease=there), None))
    return there


def test_between_the_runs_of_a_block_the_stages_are_renewed(project: Project) -> None:
    config = project.config(lease_seconds=0.3)
    locks = config.lock_manager
    with StageLockContext():
        project.run(flow(), config=config)
        first = {stage: on_another_host(locks, stage) for stage in ("one", "two")}
        until(lambda: all(locks.holder(stage).expires > first[stage].expires + 1 for stage in first))
        other = Owner.this_process("local:other")
        for stage in first:
            with pytest.raises(StageBusyError, match="on host elsewhere"):
                locks.acquire(stage, other, seconds=60)
            locks.withdraw(stage, other)
    assert locks.leases() == []


def test_what_a_run_keeps_for_later_stages_is_renewed_also_between_steps(project: Project) -> None:
    config = project.config(lease_seconds=0.3)
    locks = config.lock_manager

    @materialize(version="1")
    def first() -> int:
        return 1

    @materialize(version="1")
    def second(number: int) -> int:
        kept = on_another_host(locks, "one")
        until(lambda: locks.holder("one").expires > kept.expires + 1)
        return number

    with Flow("slow") as slow:
        with Stage("one"):
            made = first()
        with Stage("two"):
            second(made)
    assert project.run(slow, config=config).successful
    assert locks.leases() == []


def test_the_heartbeat_of_a_run_goes_on_after_the_locks_could_not_be_reached(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    locks = project.config().lock_manager
    owner = Owner.this_process("local:1")
    locks.acquire("one", owner, seconds=0.3)
    file = locks._path("one")
    content = file.read_bytes()
    file.write_text("torn")
    heartbeat = RunHeartbeat(locks, owner, 0.3)
    heartbeat.start()
    until(lambda: "could not be renewed" in caplog.text)
    file.write_bytes(content)
    until(lambda: locks.holder("one").expires > locks.now())
    heartbeat.stop()


def test_the_heartbeat_of_a_run_goes_on_after_any_exception(
    project: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = project.config().lock_manager
    owner = Owner.this_process("local:1")
    locks.acquire("one", owner, seconds=0.3)

    def broken() -> None:
        raise OSError("of a driver")

    heartbeat = RunHeartbeat(locks, owner, 0.3)
    with monkeypatch.context() as patch:
        patch.setattr(locks, "leases", broken)
        heartbeat.start()
        until(lambda: "could not be renewed; trying again in 0.1 s. OSError: of a driver" in caplog.text)
    until(lambda: locks.holder("one").expires > locks.now())
    heartbeat.stop()


def test_a_result_reads_what_its_own_run_made_or_says_that_it_is_gone(project: Project) -> None:
    def version(number: int) -> Flow:
        @materialize(version=str(number), input_type=pl.DataFrame)
        def made() -> Table[Any]:
            return Table(pl.DataFrame({"number": [number]}), "made")

        with Flow("flow") as flow, Stage("stage"):
            made()
        return flow

    config = project.config(generations_to_keep=2)
    results = [project.run(version(number), config=config) for number in range(4)]
    numbers = [result.get(result.flow["stage"]["made"])["number"].to_list() for result in results[2:]]
    assert numbers == [[2], [3]]
    with pytest.raises(
        CacheError, match=r"The table stage.made of task 'stage.made' is gone: generation 1 of its stage"
    ):
        results[0].get(results[0].flow["stage"]["made"])
