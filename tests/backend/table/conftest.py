"""Doubles of SQL Server and Db2 for the tests of table stores: neither runs here."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from sqlserver_double import Driver, Server

from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.config import create_basic_pipedag_config

if TYPE_CHECKING:
    import db2_server

    from pipedag_airflow.config import ConfigContext


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """What pyodbc connects to; it takes the place of the driver, which may not be installed."""
    server = Server()
    monkeypatch.setitem(sys.modules, "pyodbc", Driver(server))
    return server


@pytest.fixture
def db2(monkeypatch: pytest.MonkeyPatch) -> db2_server.Server:
    """What ibm_db connects to; imported here, as the driver may not be installed."""
    from db2_server import Server

    server = Server()
    monkeypatch.setattr("ibm_db_dbi.connect", server.connect)
    return server


@pytest.fixture
def db2_config(db2: db2_server.Server) -> ConfigContext:
    return create_basic_pipedag_config(db2.url).get().evolve(generations_to_keep=1)


@pytest.fixture
def db2_store(db2: db2_server.Server) -> SQLTableStore:
    return SQLTableStore(db2.url)
