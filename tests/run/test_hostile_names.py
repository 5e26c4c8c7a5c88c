"""Names that are full of what SQL means something by, through all that happens to a stage on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, RawSql, Stage, Table, View, materialize
from pipedag_airflow.run import locked
from pipedag_airflow.run.cleaning import clean
from pipedag_airflow.run.rollback import rollback

if TYPE_CHECKING:
    from conftest import Project

    from pipedag_airflow import ConfigContext

pytestmark = pytest.mark.databases("postgres")

STAGE = 'sel"ect %s.{x}:y'
NAMES = ['quo"te', "from table", "a.b", "a%b", "%(a)s", "a;b--", "ünï😀", "it's", ":name", "{brace}", "back\\slash"]
COLUMN = 'co"l %s:x'
ALL = [*NAMES, *(f"{name} of a script" for name in NAMES), *(f"{name} seen" for name in NAMES)]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def hostile(version: int) -> Flow:
    """Tables, views of them, and what a script makes: tables, functions, types and sequences."""

    def table(name: str) -> Any:
        frame = pl.DataFrame({COLUMN: [version], "x": [1]})
        return materialize(name=name, version=str(version))(
            lambda: Table(frame, name, primary_key=[COLUMN], indexes=[["x"]])
        )()

    def view(name: str, of: Any) -> Any:
        @materialize(name=f"{name} seen", lazy=True, input_type=sa.Table)
        def seen(table: Any) -> Any:
            return View(sa.select(table.c[COLUMN]), f"{name} seen")

        return seen(of)

    @materialize(lazy=True)
    def script() -> RawSql:
        schema = quoted(stage.transaction_name)
        made = []
        for name in NAMES:
            own = quoted(f"{name} of a script")
            made += [
                f"create table {schema}.{own} as select {version} as {quoted(COLUMN)}",
                f"create type {schema}.{quoted(name + ' kind')} as enum ('a')",
                f"create sequence {schema}.{quoted(name + ' ids')}",
                f"create function {schema}.{own}(x {schema}.{quoted(name + ' kind')}) returns int return {version}",
            ]
        return RawSql("|".join(made), "script", separator="|")

    with Flow("hostile") as flow, Stage(STAGE) as stage:
        for name in NAMES:
            view(name, table(name))
        script()
    return flow


def versions(project: Project, schema: str) -> dict[str, int]:
    """Return what readers find in each table and view, and what each function says."""
    shown = {name: f"select {quoted(COLUMN)} from {schema}.{quoted(name)}" for name in ALL}
    called = {f"{name}()": f"select {schema}.{quoted(f'{name} of a script')}('a')" for name in NAMES}
    found = {}
    for name, sql in (shown | called).items():
        ((found[name],),) = project.query(sql)
    return found


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_hostile_names_go_through_all_that_happens_to_a_stage(
    project: Project, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    url = sa.make_url(project.database.url).set(drivername=f"postgresql+{driver}")
    project.settings["table_store"]["args"] = {
        "url": url.render_as_string(hide_password=False),
        "schema_prefix": 'p"%(x)s ',
        "schema_suffix": " '%;s",
    }
    config: ConfigContext = project.config()
    schema = quoted(config.table_store.schema(STAGE))

    def all_are(version: int) -> dict[str, int]:
        return dict.fromkeys([*ALL, *(f"{name}()" for name in NAMES)], version)

    project.run(hostile(1))
    assert versions(project, schema) == all_are(1)
    result = project.run(hostile(1))
    assert all(decision.valid for decision in result.decisions.values())
    foreign = " union all ".join(f"select {quoted(COLUMN)} as v from {schema}.{quoted(name)}" for name in NAMES)
    project.database.execute(f'create schema "b%i"; create view "b%i"."it\'s %s" as {foreign}')

    project.run(hostile(2))
    assert versions(project, schema) == all_are(2)
    assert project.query('select distinct v from "b%i"."it\'s %s"') == [(2,)]

    rollback(config, STAGE)
    assert versions(project, schema) == all_are(1)
    assert project.query('select distinct v from "b%i"."it\'s %s"') == [(1,)]
    assert all(decision.valid for decision in project.run(hostile(1)).decisions.values())

    monkeypatch.setattr(locked, "_MORE_SECONDS", 0.0)
    available = project.config(commit_consistency="available", commit_wait_seconds=0)
    with psycopg.connect(project.database.url) as reader:
        reader.execute(f"select * from {schema}.{quoted(NAMES[0])}".encode())
        project.run(hostile(3), config=available)
    assert versions(project, schema) == all_are(3)
    assert project.query('select distinct v from "b%i"."it\'s %s"') == [(3,)]

    assert list(clean(project.config(generations_to_keep=1)))
    assert versions(project, schema) == all_are(3)
    left = {place[0] for place in project.query(project.database.tables) if "__g" in place[0]}
    assert left == set()
