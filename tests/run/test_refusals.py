"""Whoever may not have a stage, or not any more, is told who has it, since when, and what a person can do about it."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.backend.lock import LockState, Owner
from pipedag_airflow.errors import DeadlockError, StageBusyError, StaleRunError
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.leases import break_lease
from pipedag_airflow.run.session import RunSession
from pipedag_airflow.run.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Project

    from pipedag_airflow.backend.lock import LockManager

OTHER = Owner.of_run("airflow:other/1")
#: The other run, as every refusal names it.
NAMED = (
    rf"run airflow:other/1 on host {re.escape(socket.gethostname())}, "
    r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, last heartbeat \d+ s ago"
)
LOOK = "pipedag-airflow locks"
BREAK = "pipedag-airflow locks break 'my stage'"


def flow(meanwhile: Callable[[], object] = lambda: None) -> Flow:
    @materialize(version="1")
    def task() -> Table[Any]:
        meanwhile()
        return Table(pl.DataFrame({"x": [1]}), "t")

    with Flow("flow") as made:
        with Stage("ours"):
            task()
        with Stage("my stage"):
            task()
    return made


def held_by_another(session: RunSession) -> None:
    session.locks.acquire("my stage", OTHER, seconds=60)
    begin(session, "my stage")


def another_waits_longer(session: RunSession) -> None:
    session.locks.wait("my stage", OTHER)
    begin(session, "my stage")


def waited_for_too_long(session: RunSession) -> None:
    session.locks.acquire("my stage", OTHER, seconds=60)
    with pytest.raises(StageBusyError) as busy:
        begin(session, "my stage")
    session.config = session.config.evolve(wait_seconds=1)
    wait_for(session, "my stage", busy.value, since=session.locks.now() - 2)


def in_a_circle(session: RunSession) -> None:
    session.locks.acquire("my stage", OTHER, seconds=60)
    begin(session, "ours")
    session.locks.wait("ours", OTHER, keeps=("my stage",))
    with pytest.raises(StageBusyError) as busy:
        begin(session, "my stage")
    wait_for(session, "my stage", busy.value, still=["ours"])


def renewed_after_it_was_lost(session: RunSession) -> None:
    lose(session.locks, session.owner)
    session.locks.acquire("my stage", OTHER, seconds=60)
    session.locks.renew("my stage", session.owner, seconds=60)


def renewed_after_it_was_broken(session: RunSession) -> None:
    lose(session.locks, session.owner)
    session.locks.renew("my stage", session.owner, seconds=60)


def known_to_be_lost(session: RunSession) -> None:
    session.locks.acquire("my stage", OTHER, seconds=60)
    session.locks.observe("my stage", session.owner, LockState.INVALID)
    session.confirm_lease("my stage")


def known_to_be_lost_and_free(session: RunSession) -> None:
    session.locks.observe("my stage", session.owner, LockState.INVALID)
    session.confirm_lease("my stage")


def fenced_by_a_later_run(session: RunSession) -> None:
    def meanwhile() -> None:
        break_lease(session.config, "my stage")
        begin(RunSession(flow(), session.config, OTHER, engine="test"), "my stage")

    execute_with(session, meanwhile)


def fenced_by_a_broken_lease(session: RunSession) -> None:
    execute_with(session, lambda: break_lease(session.config, "my stage"))


def execute_with(session: RunSession, meanwhile: Callable[[], object]) -> None:
    session.flow = flow(meanwhile)
    begin(session, "my stage")
    execute(session, "my stage.task")


def lose(locks: LockManager, owner: Owner) -> None:
    locks.acquire("my stage", owner, seconds=60)
    locks.release("my stage", owner)


@pytest.mark.parametrize(
    ("refused", "error", "told"),
    [
        (held_by_another, StageBusyError, [NAMED, BREAK]),
        (another_waits_longer, StageBusyError, [NAMED, "there is nothing to break"]),
        (waited_for_too_long, StageBusyError, [NAMED, BREAK]),
        (in_a_circle, DeadlockError, [NAMED, BREAK]),
        (renewed_after_it_was_lost, StaleRunError, [NAMED, BREAK]),
        (renewed_after_it_was_broken, StaleRunError, ["nobody holds it now"]),
        (known_to_be_lost, StaleRunError, [NAMED, BREAK]),
        (known_to_be_lost_and_free, StaleRunError, ["Nobody holds the stage now"]),
        (fenced_by_a_later_run, StaleRunError, [NAMED, BREAK]),
        (fenced_by_a_broken_lease, StaleRunError, ["Nobody holds the stage now"]),
    ],
)
def test_a_refusal_names_the_holder_and_says_how_to_look_and_how_to_break(
    project: Project, refused: Callable[[RunSession], None], error: type[Exception], told: list[str]
) -> None:
    session = RunSession(flow(), project.config(), Owner.of_run("ours"), engine="test")
    with pytest.raises(error) as raised:
        refused(session)
    message = str(raised.value)
    assert "my stage" in message
    assert LOOK in message
    for part in told:
        assert re.search(part, message), message


def test_without_locks_a_refusal_says_that_nobody_knows_who_is_at_work(project: Project) -> None:
    project.settings["lock_manager"] = {"class": "pipedag_airflow.backend.lock.NoLockManager"}
    session = RunSession(flow(), project.config(), Owner.of_run("ours"), engine="test")
    other = RunSession(flow(), session.config, OTHER, engine="test")
    with pytest.raises(StaleRunError, match=r"was taken over by run 'airflow:other/1'.* NoLockManager notes nothing"):
        execute_with(session, lambda: begin(other, "my stage"))


def test_without_locks_each_run_is_told_once_what_it_gives_up_however_many_processes_its_steps_are(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.settings["lock_manager"] = {"class": "pipedag_airflow.backend.lock.NoLockManager"}

    def process(run_id: str) -> RunSession:
        return RunSession(flow(), project.config(), Owner.of_run(run_id), engine="test")

    for run_id in ("first", "second"):
        begin(process(run_id), "ours")
        execute(process(run_id), "ours.task")
        begin(process(run_id), "my stage")
    told = [record.message for record in caplog.records if "NoLockManager locks nothing" in record.message]
    assert len(told) == 2
    assert "lock_manager.class" in told[0]
