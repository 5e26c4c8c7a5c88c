"""PostgreSQL numbers transactions with 32 bits: a server that has had many counts from the start again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipedag_airflow import Flow, RawSql, Stage, materialize
from pipedag_airflow.testing.postgres import OwnPostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Project

    from pipedag_airflow.testing.postgres import PostgresServer

pytestmark = pytest.mark.databases("postgres")

SCRIPT = """
    CREATE TABLE {schema}.made AS SELECT 1 AS x;
    DO $$ BEGIN
        CREATE TABLE {schema}.made_in_a_block AS SELECT 2 AS x;
        CREATE FUNCTION {schema}.one() RETURNS int LANGUAGE sql AS 'SELECT 1';
    EXCEPTION WHEN division_by_zero THEN RAISE;
    END $$;
"""


@pytest.fixture(params=[3_000_000_000, 2**32 - 10], ids=["far", "at the end"])
def aged(request: pytest.FixtureRequest, project: Project, postgres: PostgresServer) -> Iterator[int]:
    """How many transactions the server of the project has had."""
    if not isinstance(postgres, OwnPostgresServer):
        pytest.skip("the server is one of the user's, which is not stopped")
    server = OwnPostgresServer(postgres.binaries)
    try:
        server.start()
        server.age(request.param)
        with server.database() as url:
            project.database.url = url.set(drivername="postgresql").render_as_string()
            project.settings["table_store"]["args"]["url"] = project.database.url
            yield request.param
    finally:
        server.stop()


def test_a_script_runs_on_a_server_that_has_had_more_than_two_billion_transactions(project: Project, aged: int) -> None:
    @materialize(version="1")
    def script(stage: Stage) -> RawSql:
        return RawSql(SCRIPT.format(schema=stage.transaction_name))

    with Flow("aged") as flow, Stage("one") as stage:
        script(stage)
    project.run(flow)
    names = project.query("select name from pipedag_metadata.object where kind = 'table' order by 1")
    assert names == [("made",), ("made_in_a_block",)]
    assert project.query("select x, one.one() from one.made_in_a_block") == [(2, 1)]
