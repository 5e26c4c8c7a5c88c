"""What readers saw of a stage before is what they see again, and the next run knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import Blob, Flow, Stage, Table, View, materialize
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.errors import StageBusyError, StageError, StaleRunError
from pipedag_airflow.run import rollback as module
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.history import show_history
from pipedag_airflow.run.publish import publish
from pipedag_airflow.run.rollback import rollback
from pipedag_airflow.run.session import RunSession

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.databases("duckdb", "postgres")

NO_LOCKS = {"class": "pipedag_airflow.backend.lock.NoLockManager"}


def shop(project: Project, version: int, *, extra: bool = False) -> Flow:
    """Two stages. A version makes anew a table, a view on it, a blob and a value of the first; one table is steady."""

    @materialize(version="1")
    def steady() -> Table[Any]:
        project.call("steady")
        return Table(pl.DataFrame({"x": [1, 2, 3]}), "steady")

    @materialize(version=str(version), nout=3)
    def orders() -> tuple[Table[Any], Blob[str], int]:
        project.call("orders")
        return (
            Table(pl.DataFrame({"version": [version]}), "orders", primary_key="version"),
            Blob(f"v{version}", "model"),
            version,
        )

    @materialize(lazy=True, input_type=sa.Table)
    def latest(table: Any) -> View[Any]:
        return View(sa.select(table), "latest")

    @materialize(version="1")
    def added() -> Table[Any]:
        return Table(pl.DataFrame({"x": [1]}), f"added_{version}")

    @materialize(version="1", input_type=pl.DataFrame)
    def report(table: pl.DataFrame, model: str, value: int) -> Table[Any]:
        project.call("report")
        return Table(table.with_columns(model=pl.lit(model), value=pl.lit(value)), "report")

    with Flow("shop") as flow:
        with Stage("raw"):
            steady()
            made = orders()
            latest(made[0])
            if extra:
                added()
        with Stage("mart"):
            report(*made)
    return flow


def shown(project: Project) -> dict[str, Any]:
    """Return what a reader of the first stage sees who knows nothing of us."""
    with project.database.reader() as query:
        names = {name for schema, name in query(project.database.tables) if schema == "raw"}
        return {name: query(f"select * from raw.{name} order by 1") for name in sorted(names)}


def seen(version: int, **more: Any) -> dict[str, Any]:
    """What a reader sees of the first stage as a version made it."""
    return {"latest": [(version,)], "orders": [(version,)], "steady": [(1,), (2,), (3,)], **more}


def test_a_rollback_shows_again_what_was_there_and_the_next_runs_go_on_from_it(project: Project) -> None:
    first = project.run(shop(project, 1))
    project.run(shop(project, 2, extra=True))
    assert shown(project) == seen(2, added_2=[(1,)])

    report = rollback(project.config(), "raw")

    assert (report.generation, report.restored, report.replaced) == (3, 1, 2)
    assert (report.changed, report.removed) == (("latest", "orders"), ("added_2",))
    assert shown(project) == seen(1)
    # Nothing was copied.
    assert "raw__g3" not in project.schemas()
    link = project.folder / "blobs" / "test" / "raw" / "model.pkl"
    assert link.resolve().name == "model.g1.pkl"

    # With the code of then all is valid, and the other stage, which was left as it was, follows.
    result = project.run(shop(project, 1))
    assert project.called == ["report"]
    assert project.generations(result) == {"raw": 3, "mart": 3}
    assert project.query("select * from mart.report") == [(1, "v1", 1)]
    assert project.executed(shop(project, 1)) == []
    assert result.get(result.flow["raw"]["orders"], as_type=pl.DataFrame)[1:] == ("v1", 1)
    assert project.generations(first) == {"raw": 3, "mart": 3}

    # With today's code what differs is made anew.
    assert project.executed(shop(project, 2, extra=True)) == ["orders", "report"]
    assert shown(project) == seen(2, added_2=[(1,)])


def test_a_rollback_can_be_taken_back(project: Project) -> None:
    project.run(shop(project, 1))
    project.run(shop(project, 2))

    rollback(project.config(), "raw")
    assert shown(project) == seen(1)
    assert rollback(project.config(), "raw").restored == 2
    assert shown(project) == seen(2)
    assert rollback(project.config(), "raw", 3).generation == 5
    assert shown(project) == seen(1)

    # With what reads it nothing is left to do.
    rollback(project.config(), "mart")
    assert project.query("select * from mart.report") == [(1, "v1", 1)]
    assert project.executed(shop(project, 1)) == []


def test_the_history_says_what_can_be_restored(project: Project) -> None:
    config = project.config(generations_to_keep=3)
    runs = [project.run(shop(project, version), config=config).run_id for version in (1, 2, 3, 3)]
    rollback(config, "raw", 2)
    lines = show_history(config, "raw")

    heads = [line.split(maxsplit=2) for line in lines if not line.startswith(" ")]
    assert [(number, state) for number, state, _ in heads] == [
        ("5", "live"),
        ("3", "restorable"),
        ("2", "restorable"),
        ("1", "published"),
    ]
    assert heads[0][2].endswith(", restores generation 2")
    assert heads[1][2].endswith(f" UTC, flow shop, run {runs[2]}")
    assert lines[1:5] == ["    latest  1 rows", "    orders  1 rows", "    steady  3 rows", "    model   blob"]
    assert lines[-1] == "1 published before are gone: the last 3 are kept (generations_to_keep)."

    project.database.execute("drop table raw__g3.orders cascade")
    lines = show_history(config, "raw")
    assert "3  damaged" in "\n".join(lines)
    assert "    orders  1 rows  LOST" in lines
    with pytest.raises(StageError, match="cannot be restored: somebody has dropped latest, orders"):
        rollback(config, "raw", 3)
    with pytest.raises(StageError, match=r"Nothing is known of a stage 'row'\. Did you mean 'raw'\?"):
        show_history(config, "row")


def test_what_cannot_be_restored_is_refused_with_what_can(project: Project) -> None:
    config = project.config(generations_to_keep=2)
    project.run(shop(project, 1), config=config)
    with pytest.raises(StageError, match=r"no generation of stage 'raw' to go back to\. Restorable are: none"):
        rollback(config, "raw")
    for version in (2, 3, 3):
        project.run(shop(project, version), config=config)

    for number, why in {
        1: "it is gone, only the last 2 published generations are kept",
        3: "it is what readers see",
        4: "it was never published, it is unchanged",
        9: "there never was one",
    }.items():
        with pytest.raises(StageError, match=f"Generation {number} of stage 'raw' cannot be restored: {why}.*: 2."):
            rollback(config, "raw", number)
    assert shown(project) == seen(3)
    assert project.executed(shop(project, 3), config=config) == []


def test_a_stage_that_a_run_holds_is_not_rolled_back(project: Project) -> None:
    project.run(shop(project, 1))
    project.run(shop(project, 2))
    flow = shop(project, 3)
    session = RunSession(flow, project.config(), Owner.of_run("airflow:shop/nightly"), engine="test")
    begin(session, "raw")

    with pytest.raises(StageBusyError, match="airflow:shop/nightly"):
        rollback(project.config(), "raw")

    for node in session.plan.stage_by_name["raw"].tasks:
        execute(session, node)
    publish(session, "raw")
    assert shown(project) == seen(3)


def test_a_run_that_does_not_know_of_the_rollback_cannot_publish(project: Project) -> None:
    project.settings["lock_manager"] = NO_LOCKS
    project.run(shop(project, 1))
    project.run(shop(project, 2))
    session = project.session(shop(project, 3))
    begin(session, "raw")
    for node in session.plan.stage_by_name["raw"].tasks:
        execute(session, node)

    rollback(project.config(), "raw")

    with pytest.raises(StaleRunError, match="was taken over by run 'rollback:"):
        publish(session, "raw")
    assert shown(project) == seen(1)


def test_of_two_rollbacks_at_once_the_second_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.run(shop(project, 1))
    project.run(shop(project, 2))
    told: list[str] = []

    def meanwhile(publication: Any) -> None:
        with pytest.raises(StageBusyError) as busy:
            rollback(project.config(), "raw")
        told.append(str(busy.value))

    monkeypatch.setattr(module, "STEPS", (*module.STEPS[:-1], meanwhile, module.STEPS[-1]))
    assert rollback(project.config(), "raw").generation == 3

    assert len(told) == 1
    assert "rollback:" in told[0]
    assert shown(project) == seen(1)
