"""Connections to Db2: what the driver is called with, what is said when it refuses, and what stays secret."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from db2_server import PASSWORD, URL

from pipedag_airflow.backend.lock import DatabaseLockManager
from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.backend.table.sql.dialects.db2.locks import lock_in_transaction
from pipedag_airflow.errors import ConfigError, StoreError, TableBusyError

if TYPE_CHECKING:
    from db2_server import Server

    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction

DEADLOCK = "SQL0911N  The current transaction has been rolled back. SQLSTATE=40001\\r SQLCODE=-911"
WRONG_PASSWORD = f'SQL30082N  Security processing failed with reason "24" (somebody, {PASSWORD}). SQLSTATE=08001'


def test_all_parameters_of_the_url_are_for_the_driver(db2: Server) -> None:
    with SQLTableStore(f"{URL}?Security=SSL&SSLServerCertificate=/etc/db2.arm").connection():
        pass
    server_and_login = f"HOSTNAME=db2.example;PORT=50000;PROTOCOL=TCPIP;UID=somebody;PWD={PASSWORD};"
    parameters = "SECURITY=SSL;SSLSERVERCERTIFICATE=/etc/db2.arm;"
    assert db2.arguments == [(f"DATABASE=warehouse;{server_and_login}{parameters}", "somebody", "", "", "")]


def test_a_database_that_the_client_knows_by_its_name_needs_no_host(db2: Server) -> None:
    with SQLTableStore("db2+ibm_db:///warehouse").connection():
        pass
    assert db2.arguments == [("DATABASE=warehouse;", "", "", "", "")]


def test_a_password_with_a_semicolon_is_refused_and_not_shown(db2: Server) -> None:
    del db2
    url = URL.replace(PASSWORD, f"{PASSWORD};x")
    with pytest.raises(ConfigError, match=r"The PWD of table_store\.args\.url has a semicolon") as caught:
        SQLTableStore(url).open()
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_another_driver_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Write db2\+ibm_db://, not db2\+pyodbc://"):
        SQLTableStore("db2+pyodbc://somebody@db2.example/warehouse").open()


def test_a_database_is_not_made_and_the_error_says_how() -> None:
    with pytest.raises(ConfigError, match="Run db2 create database warehouse there"):
        SQLTableStore(URL, create_database_if_not_exists=True).open()


def test_without_the_driver_the_error_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['ibm_db_sa'] = None\n"
        "from pipedag_airflow.backend.table import SQLTableStore\n"
        "from pipedag_airflow.errors import MissingExtraError\n"
        "store = SQLTableStore('db2+ibm_db://somebody@db2.example/warehouse')\n"
        "try:\n    store.open()\nexcept MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ibm_db is not installed: pip install 'pipedag-airflow[db2]'."


def test_a_server_that_lets_nobody_in_is_an_error_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    import ibm_db_dbi

    def refuse(*_arguments: str) -> None:
        raise ibm_db_dbi.OperationalError(f"[IBM][CLI Driver] {WRONG_PASSWORD}")

    monkeypatch.setattr(ibm_db_dbi, "connect", refuse)
    with pytest.raises(StoreError, match=r"db2\+ibm_db://db2.example:50000/warehouse cannot be opened") as caught:
        SQLTableStore(URL).open()
    shown = "".join(traceback.format_exception(caught.value))
    assert "SQL30082N" in shown
    assert PASSWORD not in shown


def test_what_a_server_says_is_shown_without_what_the_driver_adds(db2_store: SQLTableStore, db2: Server) -> None:
    db2.refusals["FROM missing"] = 'SQL0204N  "MISSING" is an undefined name.  SQLSTATE=42704\\r SQLCODE=-204'
    with pytest.raises(StoreError) as caught, db2_store.transaction() as transaction:
        transaction.connection.execute(sa.text("SELECT 1 FROM missing"))
    assert 'nothing of the transaction was stored: SQL0204N "MISSING" is an undefined name. SQLSTATE=42704' in str(
        caught.value
    )
    assert "[IBM][CLI Driver]" not in str(caught.value)


def test_a_deadlock_is_an_error_that_another_try_may_mend(db2_store: SQLTableStore, db2: Server) -> None:
    db2.refusals["FROM busy"] = DEADLOCK
    with pytest.raises(TableBusyError, match="SQL0911N"), db2_store.transaction() as transaction:
        transaction.connection.execute(sa.text("SELECT 1 FROM busy"))


def test_a_rollback_by_the_server_is_no_success_even_if_its_error_is_caught(
    db2_store: SQLTableStore, db2: Server
) -> None:
    with db2_store.transaction():
        pass
    db2.refusals["FROM busy"] = DEADLOCK

    def catch(transaction: SQLTransaction) -> None:
        transaction.connection.execute(sa.text("INSERT INTO pipedag_metadata.stage VALUES ('s', NULL, 1)"))
        with contextlib.suppress(sa.exc.DBAPIError):
            transaction.connection.execute(sa.text("SELECT 1 FROM busy"))

    with pytest.raises(StoreError, match="was caught; nothing of it was stored"), db2_store.transaction() as opened:
        catch(opened)
    assert not any("INSERT INTO pipedag_metadata.stage" in sent for unit in db2.units for sent in unit)
    # The connection is as good as before.
    with db2_store.transaction():
        pass


def test_statistics_that_cannot_be_had_are_a_warning(
    db2_store: SQLTableStore, db2: Server, caplog: pytest.LogCaptureFixture
) -> None:
    import polars as pl

    from pipedag_airflow.core.containers import Table

    db2.refusals["RUNSTATS"] = "SQL2310N  The utility could not generate statistics."
    with db2_store.transaction() as transaction:
        transaction.write_table("s", Table(pl.DataFrame({"a": [1]}), "t"), "task")
    assert "Statistics of s.t were not collected, queries on it may be slow: SQL2310N" in caplog.text


def test_the_first_who_makes_the_metadata_lets_others_wait(db2_store: SQLTableStore, db2: Server) -> None:
    with db2_store.transaction():
        pass
    unit = db2.units[-2]
    create_schema = next(index for index, sent in enumerate(unit) if "CREATE SCHEMA pipedag_metadata" in sent)
    look = next(index for index, sent in enumerate(unit) if "TABNAME" in sent)
    assert create_schema < look
    assert "ALTER TABLE pipedag_metadata.name_lock VOLATILE CARDINALITY" in unit
    numbers = "SELECT count(*), count(DISTINCT number), min(number), max(number) FROM pipedag_metadata.name_lock"
    assert db2.data.execute(numbers).fetchone() == (65_536, 65_536, 0, 65_535)


def test_names_are_locked_in_one_order_whoever_asks(db2_store: SQLTableStore, db2: Server) -> None:
    with db2_store.transaction() as transaction:
        locks = db2_store.metadata_tables.all.tables["pipedag_metadata.name_lock"]
        db2.forget()
        lock_in_transaction(transaction.connection, locks, ["b", "a", "run r", "opening of s", "a"])
        first = list(db2.parameters)
        lock_in_transaction(transaction.connection, locks, ["run r", "a", "opening of s", "b"])
    assert first == sorted(first)
    assert db2.parameters == first * 2
    assert len(first) == 4
    assert len({number // 13_107 for (number,) in first}) == 3


def test_a_lock_manager_may_be_made_of_the_engine_of_a_store(db2_store: SQLTableStore, db2: Server) -> None:
    manager = DatabaseLockManager(db2_store.engine, "pipeline", "locks")
    assert manager._stages() == []
    assert "ALTER TABLE locks.name_lock VOLATILE CARDINALITY" in db2.sent
    manager.dispose()


def test_leases_are_rows_and_their_clock_is_that_of_the_server(db2_store: SQLTableStore, db2: Server) -> None:
    manager = DatabaseLockManager(db2_store, "pipeline")
    assert manager._stages() == []
    assert any("EXTRACT(EPOCH FROM CURRENT TIMESTAMP - CURRENT TIMEZONE)" in sent for sent in db2.sent)
    manager.dispose()


def test_a_table_of_somebody_else_is_found_in_capitals_or_not(db2_store: SQLTableStore, db2: Server) -> None:
    from pipedag_airflow.core.containers import ExternalTableReference

    db2.data.execute("CREATE SCHEMA crm; CREATE TABLE crm.customers (id INTEGER)")
    with db2_store.transaction() as transaction:
        for name in ("CUSTOMERS", "customers"):
            found = db2_store.external_location(transaction.connection, ExternalTableReference(name, "crm"), "task")
            assert (found.schema, found.table) == ("crm", "customers")


def test_the_columns_of_an_alias_are_those_of_its_table(db2_store: SQLTableStore, db2: Server) -> None:
    db2.data.execute("CREATE SCHEMA crm; CREATE TABLE crm.customers (id INTEGER)")
    db2.run("CREATE OR REPLACE ALIAS crm.people FOR TABLE crm.customers")
    with db2_store.connection() as connection:
        found = db2_store.list_columns(connection, "crm")
    assert found["people"] == found["customers"]
    assert [column.name for column in found["people"]] == ["id"]
