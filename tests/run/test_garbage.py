"""What old generations leave behind, and how it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from pipedag_airflow import Blob, Flow, RawSql, Stage, Table, materialize
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.errors import StoreError
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.cleaning import clean, show_garbage
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.history import show_history
from pipedag_airflow.run.publish import publish

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.databases("duckdb", "postgres")


@pytest.fixture(autouse=True)
def read_views(project: Project) -> None:
    """Tables of all generations stay where they were made; how it goes where they move: test_schema_swap.py."""
    project.settings["stage_commit_technique"] = "read_views"


def pair(one: str, two: str) -> Flow:
    """A stage of two tables, each of a version of its own, the first with a blob."""

    def make(name: str, version: str) -> Any:
        return materialize(name=name, version=version)(lambda: Table(pl.DataFrame({"x": [version]}), name))

    @materialize(version=one)
    def blob() -> Blob[str]:
        return Blob(one, "blob")

    with Flow("pair") as flow, Stage("s"):
        make("one", one)()
        make("two", two)()
        blob()
    return flow


def generations(project: Project) -> set[str]:
    """Return the tables of all generations, as schema.name, and the files of the blobs."""
    tables = {f"{schema}.{name}" for schema, name in project.query(project.database.tables) if "__g" in schema}
    return tables | {file.name for file in (project.folder / "blobs" / "test" / "s").glob("*.g*.pkl")}


def test_what_is_carried_over_stays_and_what_it_stood_beside_goes(project: Project) -> None:
    config = project.config(generations_to_keep=1)
    project.run(pair("1", "1"), config=config)
    project.run(pair("2", "1"), config=config)
    assert generations(project) == {"s__g1.two", "s__g2.one", "blob.g2.pkl"}
    project.run(pair("2", "2"), config=config)
    assert generations(project) == {"s__g2.one", "s__g3.two", "blob.g2.pkl"}
    assert project.query("select * from s.one, s.two") == [("2", "2")]


def test_gc_says_what_would_go_and_then_removes_it_once(project: Project) -> None:
    runs = [project.run(pair(version, "1")).run_id for version in "123"]
    before = generations(project)
    config = project.config(generations_to_keep=1)
    history = show_history(config, "s")
    assert list(show_garbage(project.config())) == []

    listed = list(show_garbage(config))

    assert [line.partition(",")[0] for line in listed if "metadata" not in line] == [
        "s: generation 1 (published",
        "    table s__g1.one",
        "    blob s/blob.g1.pkl",
        "s: generation 2 (published",
        "    schema s__g2",
        "    table s__g2.one",
        "    blob s/blob.g2.pkl",
    ]
    assert listed[0].endswith(f", run {runs[0]}): it is beyond the last 1 (generations_to_keep)")
    on_postgres = config.table_store.dialect_name == "postgresql"
    assert listed[1].startswith("    table s__g1.one, 1 rows")
    assert listed[1].endswith(" bytes") is on_postgres
    assert listed[2].endswith(" bytes")
    assert listed[3] == "    metadata: 3 rows of tasks, 3 of tables and blobs"
    assert generations(project) == before
    assert show_history(config, "s") == history

    assert list(clean(config)) == listed

    assert generations(project) == {"s__g1.two", "s__g3.one", "blob.g3.pkl"}
    assert project.query("select * from s.one, s.two") == [("3", "1")]
    assert list(clean(config)) == list(show_garbage(config)) == []
    assert project.executed(pair("3", "1"), config=config) == []


def test_gc_removes_blobs_that_no_task_has_as_its_result_with_their_generation(project: Project) -> None:
    """A task that failed has left one, and the first of two times that it was executed in a run."""
    names = iter(["failed", "first", "second", "third"])
    keys = iter(["y", "x", "x", "x"])

    @materialize(version=None)
    def made_anew() -> Any:
        return [Blob(1, next(names)), Table(pl.DataFrame({"x": [1]}), "t", primary_key=next(keys))]

    with Flow("strays") as flow, Stage("s"):
        made_anew()
    session = project.session(flow)
    begin(session, "s")
    with pytest.raises(StoreError):
        execute(session, "s.made_anew")
    for revision in range(2):
        execute(session, "s.made_anew", revision=revision)
    publish(session, "s")
    project.run(flow)
    (project.folder / "blobs" / "test" / "s" / "theirs.g1.pkl").write_bytes(b"not signed")
    assert list(show_garbage(project.config())) == []

    config = project.config(generations_to_keep=1)
    before, listed = generations(project), list(show_garbage(config))

    assert [line.partition(",")[0] for line in listed if "metadata" not in line][-4:] == [
        "    blob s/second.g1.pkl",
        "s: blobs of generations that are not kept",
        "    blob s/failed.g1.pkl",
        "    blob s/first.g1.pkl",
    ]
    assert generations(project) == before
    assert list(clean(config)) == listed
    assert generations(project) == {"s__g2.t", "third.g2.pkl", "theirs.g1.pkl"}
    assert list(show_garbage(config)) == []


def test_gc_leaves_a_stage_alone_that_a_run_holds(project: Project) -> None:
    for version in "12":
        project.run(pair(version, "1"))
    config = project.config(generations_to_keep=1)
    before = generations(project)
    nightly = Owner.of_run("airflow:pair/nightly")
    config.lock_manager.acquire("s", nightly, seconds=60)

    (line,) = clean(config)

    assert line.startswith("s: left alone. ")
    assert "airflow:pair/nightly" in line
    assert generations(project) == before
    config.lock_manager.release("s", nightly)
    assert len(list(clean(config))) == 4


def test_gc_takes_nothing_from_a_run_that_nobody_holds_a_stage_for(project: Project) -> None:
    project.settings["lock_manager"] = {"class": "pipedag_airflow.backend.lock.NoLockManager"}
    for version in "12":
        project.run(pair(version, "1"))
    session = project.session(pair("3", "1"))
    begin(session, "s")
    execute(session, "s.one")
    execute(session, "s.blob")

    assert len(list(clean(project.config(generations_to_keep=1)))) == 4

    assert generations(project) == {"s__g1.two", "s__g2.one", "blob.g2.pkl", "s__g3.one", "blob.g3.pkl"}
    publish(session, "s")
    assert project.query("select * from s.one, s.two") == [("3", "1")]


def test_one_generation_that_cannot_go_keeps_no_other(project: Project) -> None:
    for version in "123":
        project.run(pair(version, version))
    config = project.config(generations_to_keep=1)
    blob = project.folder / "blobs" / "test" / "s" / "blob.g1.pkl"
    blob.unlink()
    blob.mkdir()

    with pytest.raises(StoreError, match=r"Generation 1 of stage 's' could not be removed: .*blob\.g1\.pkl"):
        list(clean(config))

    assert generations(project) == {"s__g1.one", "s__g1.two", "s__g3.one", "s__g3.two", "blob.g1.pkl", "blob.g3.pkl"}
    blob.rmdir()
    assert "    schema s__g1" in list(clean(config))
    assert generations(project) == {"s__g3.one", "s__g3.two", "blob.g3.pkl"}


def test_what_others_have_made_in_the_schema_of_a_generation_stays_and_is_named(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.run(pair("1", "1"))
    project.database.execute("create table s__g1.theirs as select 1 as x")
    project.database.execute("create view s__g1.also_theirs as select 1 as x")
    project.database.execute("create table s__g1.orders__filtered as select 1 as x")
    project.run(pair("2", "2"))
    config = project.config(generations_to_keep=1)
    theirs = "also_theirs, orders__filtered, theirs"
    assert f"    schema s__g1 stays, because {theirs} in it is not ours" in list(show_garbage(config))

    project.run(pair("3", "3"), config=config)

    assert generations(project) >= {"s__g1.theirs", "s__g1.also_theirs", "s__g1.orders__filtered"}
    assert not generations(project) & {"s__g1.one", "s__g1.two"}
    assert project.query("select count(*) from s__g1.theirs") == [(1,)]
    (line,) = [record.message for record in caplog.records if "s__g1" in record.message and "stays" in record.message]
    assert "theirs" in line
    assert "also_theirs" in line
    caplog.clear()
    project.run(pair("4", "4"), config=config)
    assert "s__g1" not in caplog.text, "it has been said"
    (_, line) = [line for line in show_garbage(config) if "s__g1" in line or "generation 1 " in line]
    assert line == f"    schema s__g1 stays, because {theirs} in it is not ours"
    assert list(clean(config)) == list(show_garbage(config))
    project.database.execute("drop schema s__g1 cascade; create schema s__g1")
    project.run(pair("5", "5"), config=config)
    schemas = "select count(*) from information_schema.schemata where schema_name = 's__g1'"
    assert project.query(schemas) == [(0,)]
    assert list(show_garbage(config)) == []


def test_what_a_task_that_died_has_materialized_goes_with_its_schema(project: Project) -> None:
    flow = pair("1", "1")
    project.run(flow)
    config = project.config(generations_to_keep=1)
    store = config.table_store
    left = f"{store.generation_schema('s', 1)}.one__pipedag_abcd2345"
    project.database.execute(f"create table {left} as select 1 as x")
    for version in "23":
        project.run(pair(version, version), config=config)
    assert not {name for name in generations(project) if name.startswith("s__g1.")}


FOREIGN_KEYS = {
    "from the second": "create table {0}.a (id int primary key); create table {0}.b (a int references {0}.a (id))",
    "from the first": "create table {0}.b (id int primary key); create table {0}.a (b int references {0}.b (id))",
}
IN_ANY_ORDER = {
    "added later": "create table {0}.a (b int); create table {0}.b (id int primary key);"
    "alter table {0}.a add foreign key (b) references {0}.b (id)",
    "in a circle": "create table {0}.a (id int primary key, b int); create table {0}.b (id int primary key, a int);"
    "alter table {0}.a add foreign key (b) references {0}.b (id);"
    "alter table {0}.b add foreign key (a) references {0}.a (id)",
    "a view replaced": "create view {0}.v as select 1 as x; create table {0}.t (x int);"
    "create or replace view {0}.v as select x from {0}.t",
    "a default added": "create table {0}.t (x int); create sequence {0}.q;"
    "alter table {0}.t alter x set default nextval('{0}.q')",
}


def scripted(script: str) -> Flow:
    """A stage of a script that is run each time."""

    @materialize(version=None)
    def task() -> RawSql:
        return RawSql(script.format(stage.transaction_name), "scripted")

    with Flow("scripted") as flow, Stage("s") as stage:
        task()
    return flow


@pytest.mark.parametrize("script", FOREIGN_KEYS.values(), ids=FOREIGN_KEYS)
def test_a_table_goes_before_the_one_that_its_foreign_key_is_to(project: Project, script: str) -> None:
    check_that_it_goes(project, script)


@pytest.mark.databases("postgres")
@pytest.mark.parametrize("script", IN_ANY_ORDER.values(), ids=IN_ANY_ORDER)
@pytest.mark.parametrize("technique", ["read_views", "schema_swap"])
def test_what_is_older_may_need_what_is_newer_and_goes_too(project: Project, script: str, technique: str) -> None:
    project.settings["stage_commit_technique"] = technique
    check_that_it_goes(project, script)


def check_that_it_goes(project: Project, script: str) -> None:
    """With its old generation, and when the task is cleared."""
    config = project.config(generations_to_keep=1)
    for _ in range(3):
        project.run(scripted(script), config=config)
    assert list(clean(config)) == []
    assert {name.partition(".")[0] for name in project.objects("s__g*")} <= {"s__g3"}
    session = project.session(scripted(script))
    begin(session, "s")
    for revision in range(2):
        execute(session, "s.task", revision=revision)
