"""commit_consistency: available. A publish that waits for no reader puts a new schema in the place of the old one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import polars as pl
import psycopg
import pytest

from pipedag_airflow import Flow, RawSql, Stage, Table, materialize
from pipedag_airflow.errors import StoreError
from pipedag_airflow.run import locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Project

    from pipedag_airflow import ConfigContext

pytestmark = pytest.mark.databases("postgres")


@pytest.fixture(autouse=True)
def impatient(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locked, "_MORE_SECONDS", 0.0)
    project.settings |= {"commit_consistency": "available", "commit_wait_seconds": 0}


def stage_of(version: int, script: str = "create table {schema}.made as select 1 as x") -> Flow:
    """A table that changes with the version, and what a script makes, which does not."""

    @materialize(version=str(version))
    def number() -> Table[Any]:
        return Table(pl.DataFrame({"number": [version]}), "number")

    @materialize(version="1")
    def scripted() -> RawSql:
        return RawSql(script.format(schema=stage.transaction_name), "script")

    with Flow("flow") as flow, Stage("stage") as stage:
        number()
        scripted()
    return flow


@contextmanager
def held(project: Project, *tables: str) -> Iterator[None]:
    """Somebody reads tables of the stage for as long as the block lasts."""
    with psycopg.connect(project.database.url) as reader:
        for table in tables:
            reader.execute(f"select * from stage.{table}")  # type: ignore[arg-type]
        yield


def publish_beside_a_reader(project: Project, *tables: str, config: ConfigContext | None = None, **given: str) -> None:
    with held(project, *tables):
        project.run(stage_of(2, **given), config=config)


def test_the_new_schema_has_the_owner_and_the_comment_of_the_old_one(project: Project) -> None:
    project.run(stage_of(1))
    role = str(project.database.url).rpartition("/")[2] + "_owner"
    project.database.execute(
        f"create role {role}; alter schema stage owner to {role}; comment on schema stage is 'it''s 100 % theirs'"
    )
    try:
        publish_beside_a_reader(project, "number")
        facts = "nspowner::regrole::text, obj_description(oid, 'pg_namespace')"
        found = project.query(f"select {facts} from pg_namespace where nspname = 'stage'")
        assert found == [(role, "it's 100 % theirs")]
        assert project.query("select number from stage.number") == [(2,)]
    finally:
        project.database.execute(f"reassign owned by {role} to current_user; drop owned by {role}; drop role {role}")


def test_what_others_have_put_into_the_old_generation_s_schema_is_not_lost(project: Project) -> None:
    project.run(stage_of(1))
    project.database.execute("create table stage__g1.theirs as select 1 as x")
    with pytest.raises(StoreError, match=r"cannot be replaced by a new one either, because of table stage__g1\.theirs"):
        publish_beside_a_reader(project, "number")
    assert project.query("select (select number from stage.number), (select x from stage__g1.theirs)") == [(1, 1)]


def test_a_name_that_others_have_taken_where_the_old_table_goes_stays_theirs(project: Project) -> None:
    project.run(stage_of(1))
    project.database.execute("create table stage__g1.number as select 7 as x")
    project.run(stage_of(2))
    assert project.query("select (select number from stage.number), (select x from stage__g1.number)") == [(2, 7)]


def test_no_schema_is_replaced_where_schemas_are_left_to_others(project: Project) -> None:
    project.run(stage_of(1))
    project.settings["table_store"]["args"]["avoid_drop_create_schema"] = True
    project.database.execute("create schema stage__g2")
    with pytest.raises(StoreError, match="avoid_drop_create_schema"):
        publish_beside_a_reader(project, "number")
    assert project.query("select number from stage.number") == [(1,)]
    project.run(stage_of(2))
    assert project.query("select number from stage.number") == [(2,)]


def test_a_table_that_stays_and_is_read_is_copied_as_it_is(project: Project) -> None:
    script = (
        "create unlogged table {schema}.made (x int primary key, twice int generated always as (2 * x) stored);"
        "insert into {schema}.made values (1), (2)"
    )
    project.run(stage_of(1, script))
    publish_beside_a_reader(project, "number", "made", script=script)
    assert project.query("select number, x, twice from stage.number, stage.made order by x") == [(2, 1, 2), (2, 2, 4)]
    kind = "select relpersistence::text from pg_class where oid = 'stage.made'::regclass"
    assert project.query(kind) == [("u",)]
    project.run(stage_of(2, script))
    assert project.called == []


@pytest.mark.parametrize(
    "column", ["serial", "int generated always as identity", "int generated by default as identity"]
)
def test_a_table_with_a_counter_that_is_read_is_not_copied(project: Project, column: str) -> None:
    script = f"create table {{schema}}.made (id {column}, x int); insert into {{schema}}.made (x) values (1)"
    project.run(stage_of(1, script))
    with pytest.raises(StoreError, match=r"stage\.made is read just now, and counts its column id"):
        publish_beside_a_reader(project, "number", "made", script=script)
    assert project.query("select number from stage.number") == [(1,)]
    publish_beside_a_reader(project, "number", script=script)
    assert project.query("select number, id from stage.number, stage.made") == [(2, 1)]
