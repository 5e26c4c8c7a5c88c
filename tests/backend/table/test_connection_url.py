"""The URLs that Airflow connections stand for."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.connection_url import connection_scheme, file_url, server_url
from pipedag_airflow.backend.table.sql.dialects.duckdb import DuckDBTableStore
from pipedag_airflow.backend.table.sql.store import SQLTableStore
from pipedag_airflow.config import PipedagConfig
from pipedag_airflow.config.connections import Connection
from pipedag_airflow.errors import ConfigError, StoreError

pytestmark = pytest.mark.usefixtures("outside_of_airflow")


def connection(conn_type: str = "postgres", **facts: Any) -> Connection:
    return Connection("warehouse", conn_type, **facts)


@pytest.mark.parametrize(
    ("conn_type", "extra", "expected"),
    [
        ("postgres", {}, "postgresql"),
        ("duckdb", {}, "duckdb"),
        ("postgres", {"sqlalchemy_scheme": "postgresql+psycopg"}, "postgresql+psycopg"),
        ("pipedag", {"sqlalchemy_scheme": "duckdb"}, "duckdb"),
    ],
)
def test_dialect_and_driver_follow_from_the_extra_or_the_type(conn_type, extra, expected):
    assert connection_scheme(connection(conn_type, extra=extra)) == expected


def test_a_connection_of_our_type_must_name_its_dialect():
    with pytest.raises(ConfigError, match=r"'warehouse' does not say which database .* sqlalchemy_scheme"):
        connection_scheme(connection("pipedag"))


def test_a_url_has_all_that_the_connection_says():
    url = server_url(
        connection(
            login="bob@corp",
            password="p@ss:/w +%",
            host="db.example.org",
            port=5433,
            schema="shop",
            extra={"sslmode": "require", "sqlalchemy_scheme": "x", "sqlalchemy_query": {"connect_timeout": 3}},
        ),
        "postgresql",
    )
    read = sa.make_url(url.render_as_string(hide_password=False))
    assert read == url
    assert (read.username, read.password, read.host, read.port) == ("bob@corp", "p@ss:/w +%", "db.example.org", 5433)
    assert (read.database, dict(read.query)) == ("shop", {"sslmode": "require", "connect_timeout": "3"})


def test_what_cannot_be_a_parameter_is_refused_rather_than_left_out():
    with pytest.raises(ConfigError, match="'hosts' in its extra, which is a list"):
        server_url(connection(extra={"hosts": ["a", "b"]}), "postgresql")


@pytest.mark.parametrize("place", ["host", "schema"])
def test_a_file_is_named_by_host_or_schema(place):
    url = file_url(connection("duckdb", **{place: "/srv/a b?c#d.duckdb"}, extra={"threads": 2}), "duckdb")
    read = sa.make_url(url.render_as_string(hide_password=False))
    assert (read.database, dict(read.query)) == ("/srv/a b?c#d.duckdb", {"threads": "2"})


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({}, "found nothing"),
        ({"host": "shop.duckdb"}, "found 'shop.duckdb'"),
        ({"host": "/a", "schema": "/b"}, "found '/a' and '/b'"),
    ],
)
def test_a_file_needs_one_absolute_path(facts, found):
    with pytest.raises(ConfigError, match=f"absolute path of the database file as its host.*{found}"):
        file_url(connection("duckdb", **facts), "duckdb")


def test_a_dialect_that_nobody_provides_is_an_error():
    with pytest.raises(ConfigError, match="no table store for 'mysql'"):
        SQLTableStore.connection_args(connection("mysql", host="h"))


def test_a_store_is_opened_by_a_connection(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", f"duckdb://%2F{tmp_path.as_posix()[1:].replace('/', '%2F')}%2Fshop.duckdb")
    store = {"class": "pipedag_airflow.backend.table.SQLTableStore", "args": {"conn_id": "shop", "schema_prefix": "x_"}}
    context = PipedagConfig({"instances": {"__any__": {"table_store": store}}}).get()
    assert context.table_store.schema("raw") == "x_raw"
    assert context.table_store.address == f"duckdb:///{tmp_path}/shop.duckdb"
    with context.table_store.transaction() as transaction:
        assert transaction.metadata.all_stages() == []
    context.table_store.dispose()
    assert (tmp_path / "shop.duckdb").exists()


@pytest.mark.parametrize("extra", ["", "?sqlalchemy_scheme=postgresql%2Bpsycopg2"])
def test_a_connection_of_airflows_own_type_opens_postgresql(postgres_url, monkeypatch, extra):
    host = f"{postgres_url.host}:{postgres_url.port}"
    uri = f"postgres://{postgres_url.username}:needless@{host}/{postgres_url.database}{extra}"
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", uri)
    store = {"class": "pipedag_airflow.backend.table.SQLTableStore", "args": {"conn_id": "shop"}}
    opened = PipedagConfig({"instances": {"__any__": {"table_store": store}}}).get().table_store
    with opened.connection() as connection:
        assert connection.execute(sa.select(sa.func.current_database())).scalar() == postgres_url.database
    opened.dispose()


def test_postgresql_does_not_tell_who_could_not_log_in(postgres_url):
    opened = SQLTableStore(postgres_url.set(username="nobody_at_all", password="hunter22").render_as_string(False))
    with pytest.raises(StoreError, match="cannot be opened") as caught:
        opened.open()
    shown = "".join(traceback.format_exception(caught.value))
    assert "nobody_at_all" not in shown.replace('set(username="nobody_at_all"', "")
    assert str(postgres_url.database) in str(caught.value)


def test_a_database_that_cannot_be_opened_does_not_tell_who_tried(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise sa.exc.OperationalError("connect", None, ValueError('password "hunter22" of user "bob" is wrong'))

    store = DuckDBTableStore("duckdb://bob:hunter22@db.example.org/shop")
    monkeypatch.setattr(store.engine, "connect", refuse)
    with pytest.raises(StoreError, match=r"db\.example\.org/shop cannot be opened: password") as caught:
        store.open()
    assert "bob" not in str(caught.value)
    assert "hunter22" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
