"""Ibis on DuckDB and PostgreSQL: the suite of table stores, and how expressions are found and named."""

from __future__ import annotations

import functools
import pickle
from typing import TYPE_CHECKING, Any

import ibis
import pytest

from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.backend.table.sql.facts import Column, TableLocation
from pipedag_airflow.backend.table.sql.frames.base import frame_type_for_object
from pipedag_airflow.backend.table.sql.frames.ibis import IbisFrames
from pipedag_airflow.errors import UnsupportedValueError
from pipedag_airflow.testing.ibis_suite import IbisSuite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import sqlalchemy as sa

PLACE = TableLocation("clean", "orders", "clean__g3", "orders", (Column("x", "BIGINT", False),))


class TestDuckDB(IbisSuite):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[..., SQLTableStore]:
        return functools.partial(SQLTableStore, f"duckdb:///{tmp_path}/with blanks λ.duckdb")


class TestPostgres(IbisSuite):
    @pytest.fixture
    def make_store(self, postgres_url: sa.URL) -> Callable[..., SQLTableStore]:
        return functools.partial(SQLTableStore, url_of(postgres_url, "psycopg"))


class TestPsycopg2OnTheOldestServer(IbisSuite):
    @pytest.fixture
    def make_store(self, oldest_postgres_url: sa.URL) -> Callable[..., SQLTableStore]:
        return functools.partial(SQLTableStore, url_of(oldest_postgres_url, "psycopg2"))


def url_of(url: sa.URL, driver: str) -> str:
    return url.set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)


def table() -> Any:
    return SQLTableStore("duckdb:///:memory:").read_table(None, PLACE, ibis.Table, "task")


def test_expressions_of_tables_are_of_this_kind_and_others_are_not() -> None:
    assert isinstance(frame_type_for_object(table()), IbisFrames)
    assert frame_type_for_object(table().x) is None
    assert IbisFrames().accepts(ibis.api.Table)
    assert not IbisFrames().accepts(ibis.Schema)


def test_only_an_alias_names_the_table_of_an_expression() -> None:
    expressions = [table(), table().filter(ibis._.x > 1), table().alias("large"), table().alias("large").limit(1)]
    assert [IbisFrames().name_of(expression) for expression in expressions] == [None, None, "large", None]


def test_an_expression_can_be_sent_to_another_process() -> None:
    sent = table().filter(ibis._.x > 1)
    assert pickle.loads(pickle.dumps(sent)).equals(sent)


def test_a_column_that_holds_no_null_goes_into_a_union_with_one_that_may() -> None:
    assert table().union(ibis.table({"x": "int64"}, name="theirs")).columns == ("x",)


def test_a_dialect_that_ibis_does_not_know_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SQLTableStore("duckdb:///:memory:")
    monkeypatch.setattr(type(store), "dialect_name", "db2")
    with pytest.raises(UnsupportedValueError, match=r"Ibis writes no SQL for db2\. .*sqlalchemy\.Table"):
        store.read_table(None, PLACE, ibis.Table, "task")
