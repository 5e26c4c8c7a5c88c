"""What scripts make on PostgreSQL besides tables and views is published by moving it, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pipedag_airflow import Flow, RawSql, Stage, materialize
from pipedag_airflow.errors import StoreError
from pipedag_airflow.run.rollback import rollback

if TYPE_CHECKING:
    from conftest import Project


pytestmark = pytest.mark.databases("postgres")


@pytest.fixture
def project(project: Project) -> Project:
    project.settings["stage_commit_technique"] = "schema_swap"
    return project


#: One of each kind, a table that needs some of them, and what needs the table.
EVERYTHING = """
    create type {schema}.mood as enum ('ok', 'v{number}');
    create type {schema}.pair as (first int, second {schema}.mood);
    create domain {schema}.positive as int check (value > 0);
    create type {schema}.span as range (subtype = float8);
    create sequence {schema}.ids start {number};
    create function {schema}.version() returns int language sql return {number};
    create function {schema}.version(other {schema}.mood) returns text language sql return other::text;
    create procedure {schema}.touch() language plpgsql as 'begin perform 1; end';
    create table {schema}.made (
        id int default nextval('{schema}.ids'), mood {schema}.mood, size {schema}.positive, span {schema}.span,
        check (size < {schema}.version() + 100)
    );
    insert into {schema}.made (mood, size) values ('v{number}', {number});
    create view {schema}.seen as select {schema}.version() as version, id from {schema}.made;
    create function {schema}.biggest() returns int begin atomic
        select 0; select max(id) from {schema}.made; end
"""

NAMES = (
    "select p.proname from pg_proc p where p.pronamespace = '{0}'::regnamespace"
    " union all select relname from pg_class where relnamespace = '{0}'::regnamespace and relkind = 'S'"
    " union all select typname from pg_type where typnamespace = '{0}'::regnamespace and typtype in ('e', 'r', 'm')"
)


def scripted(sql: str, *, beside: int = 0, **given: object) -> Flow:
    """A stage with a script, and another one that may change without it."""

    @materialize(lazy=True)
    def script() -> Any:
        return RawSql(sql.format(schema=stage.transaction_name, **given), "script")

    @materialize(lazy=True)
    def other() -> Any:
        return RawSql(f"create table {stage.transaction_name}.beside as select {beside} as x", "other")

    with Flow("scripted") as flow, Stage("stage") as stage:
        script()
        other()
    return flow


def names(project: Project, schema: str = "stage") -> list[str]:
    return sorted(name for (name,) in project.query(NAMES.format(schema)))


LOOK = "select stage.version(), stage.version(mood), stage.biggest(), id, size from stage.made"


def test_functions_sequences_and_types_are_published_replaced_and_rolled_back(project: Project) -> None:
    first = project.generations(project.run(scripted(EVERYTHING, number=1)))
    everything = names(project)
    assert {"biggest", "ids", "mood", "span", "touch", "version"} <= set(everything)
    assert project.query(LOOK) == [(1, "v1", 1, 1, 1)]
    project.database.execute("call stage.touch(); insert into stage.made (mood, size, span) values ('ok', 1, '[1,2]')")
    assert names(project, "stage__g1") == []

    assert project.generations(project.run(scripted(EVERYTHING, number=1))) == first
    oid = "select 'stage.version()'::regprocedure::oid"
    before = project.query(oid)
    project.run(scripted(EVERYTHING, number=1, beside=1))
    assert project.query(oid) == before

    project.run(scripted(EVERYTHING, number=2))
    assert project.query(LOOK) == [(2, "v2", 2, 2, 2)]
    assert project.query("select version, id from stage.seen") == [(2, 2)]
    assert names(project) == everything

    rollback(project.config(), "stage")
    assert project.query(LOOK + " order by id limit 1") == [(1, "v1", 2, 1, 1)]
    assert project.query("select version from stage.seen limit 1") == [(1,)]
    assert names(project) == everything
    assert project.query(oid) == before

    kept = project.config(generations_to_keep=1)
    project.run(scripted("create function {schema}.only() returns int language sql return 1"), config=kept)
    assert names(project) == ["only"]
    left = "select nspname from pg_namespace where nspname like 'stage\\_\\_g%' order by 1"
    assert [names(project, schema) for (schema,) in project.query(left)] == [[]]


def test_what_was_granted_and_what_others_have_built_is_kept(project: Project) -> None:
    sql = (
        "create function {schema}.f(x int) returns int language sql return x + {number};"
        "create sequence {schema}.ids start {number}; create type {schema}.mood as enum ('ok')"
    )
    project.run(scripted(sql, number=1))
    bi = f"{project.database.url.rsplit('/', 1)[1]}_bi"
    project.database.execute(
        f"create role {bi}; revoke execute on function stage.f from public; grant usage on sequence stage.ids to {bi};"
        "create schema bi; create view bi.v as select stage.f(1) as x"
    )
    try:
        project.run(scripted(sql, number=2))
        assert project.query("select x from bi.v") == [(3,)]
        rights = f"has_function_privilege('{bi}', 'stage.f(int)', 'execute'), has_sequence_privilege"
        assert project.query(f"select {rights}('{bi}', 'stage.ids', 'usage')") == [(False, True)]

        project.database.execute("create table bi.t (mood stage.mood, id int default nextval('stage.ids'))")
        with pytest.raises(StoreError, match=r"on sequence ids: table bi\.t .*on type mood: table bi\.t"):
            project.run(scripted(sql, number=3))
        assert project.query("select x from bi.v") == [(3,)]
    finally:
        project.database.execute(f"drop schema bi cascade; drop owned by {bi}; drop role {bi}")


def test_a_text_that_would_not_follow_what_moves_is_refused(project: Project) -> None:
    sql = (
        "create table {schema}.t as select 1 as x;"
        "create function {schema}.f() returns int language plpgsql as 'begin return (select x from {name}.t); end'"
    )

    def flow(name: str) -> Flow:
        @materialize(lazy=True)
        def script() -> Any:
            schema = stage.transaction_name
            return RawSql(sql.format(schema=schema, name=name or schema), "script")

        with Flow("text") as built, Stage("stage") as stage:
            script()
        return built

    with pytest.raises(StoreError, match=r"makes the function f\(\) with a text that names the schema 'stage__g1'"):
        project.run(flow(""))
    project.run(flow("stage"))
    assert project.query("select stage.f()") == [(1,)]


def test_with_views_they_stay_where_they_were_made_as_long_as_they_are_needed(project: Project) -> None:
    sql = "create function {schema}.f() returns int language sql return {number}"
    views = project.config(stage_commit_technique="read_views", generations_to_keep=1)
    project.run(scripted(sql, number=1), config=views)
    for beside in (1, 2):
        project.run(scripted(sql, number=1, beside=beside), config=views)
    assert names(project, "stage__g1") == ["f"]
    project.run(scripted(sql, number=1, beside=3))
    assert project.query("select stage.f()") == [(1,)]
    project.run(scripted(sql, number=1, beside=4), config=views)
    assert names(project) == []


def test_with_available_they_move_to_the_new_schema(project: Project) -> None:
    def flow(number: int) -> Flow:
        @materialize(lazy=True)
        def steady() -> Any:
            return RawSql(f"create type {stage.transaction_name}.mood as enum ('ok')", "steady")

        @materialize(lazy=True)
        def script() -> Any:
            schema = stage.transaction_name
            return RawSql(
                f"create function {schema}.f() returns int language sql return {number};"
                f"create table {schema}.t as select {number} as x",
                "script",
            )

        with Flow("available") as built, Stage("stage") as stage:
            steady()
            script()
        return built

    project.run(flow(1))
    with psycopg.connect(project.database.url) as reader:
        reader.execute("select * from stage.t")
        project.run(flow(2), config=project.config(commit_consistency="available", commit_wait_seconds=0))
    assert names(project) == ["f", "mood"]
    assert project.query("select x, stage.f(), 'ok'::stage.mood::text from stage.t") == [(2, 2, "ok")]


NAMESAKES = """
    create type {schema}.mood as enum ('v{number}');
    create sequence {schema}.ids start {number};
    create function {schema}.f() returns int language sql return {number};
    create table {schema}.t (x int primary key);
    insert into {schema}.t values ({number})
"""
SHOWN = "select x, stage.f(), enum_range(null::stage.mood)::text from stage.t"


@pytest.mark.parametrize("consistency", ["strict", "available"])
@pytest.mark.parametrize(
    ("theirs", "ours", "named"),
    [
        ("type {}.mood as (x int)", "type stage.mood", "type stage__g1.mood is there"),
        ("table {}.mood (x int)", "type stage.mood", 'type "mood" already exists in schema "stage__g1"'),
        ("function {}.f() returns int return 7", r"function stage.f\(\)", r"function stage__g1.f\(\) is there"),
        ("procedure {}.f() begin atomic end", r"function stage.f\(\)", r"function f\(\) already exists in schema"),
        ("sequence {}.ids", "sequence stage.ids", "sequence stage__g1.ids is there"),
        ("view {}.ids as select 1", "sequence stage.ids", 'relation "ids" already exists in schema "stage__g1"'),
        ("table {}.other (x int constraint t_pkey primary key)", "table stage.t", 'relation "t_pkey" already exists'),
    ],
)
def test_what_stands_where_they_go_stops_the_publish_with_its_name_and_nothing_is_lost(
    project: Project, consistency: str, theirs: str, ours: str, named: str
) -> None:
    config = project.config(commit_consistency=consistency)
    project.run(scripted(NAMESAKES, number=1), config=config)
    project.database.execute(f"create {theirs.format('stage__g1')}")
    before = project.query(SHOWN), names(project, "stage__g1")
    message = f"the {ours} is to go to schema 'stage__g1', but (the )?{named}.*which is not ours.*Rename it"
    with pytest.raises(StoreError, match=message):
        project.run(scripted(NAMESAKES, number=2), config=config)
    assert (project.query(SHOWN), names(project, "stage__g1")) == before

    project.database.execute("alter schema stage__g1 rename to theirs; create schema stage__g1")
    project.run(scripted(NAMESAKES, number=2), config=config)
    assert project.query(SHOWN) == [(2, 2, "{v2}")]
    assert "mood" in names(project, "stage__g1")


@pytest.mark.parametrize("theirs", ["sequence {}.t", "type {}.t as (x int)", "domain {}.t as int"])
def test_a_table_goes_beside_what_has_its_name(project: Project, theirs: str) -> None:
    project.run(scripted(NAMESAKES, number=1))
    project.database.execute(f"create {theirs.format('stage__g1')}")
    project.run(scripted(NAMESAKES, number=2))
    assert project.query("select x from stage.t") == [(2,)]
    rollback(project.config(), "stage", 1)
    assert project.query("select x from stage.t") == [(1,)]
