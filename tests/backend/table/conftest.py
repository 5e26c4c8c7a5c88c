"""A double of SQL Server for the tests of table stores: none runs here."""

from __future__ import annotations

import sys

import pytest
from sqlserver_double import Driver, Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """What pyodbc connects to; it takes the place of the driver, which may not be installed."""
    server = Server()
    monkeypatch.setitem(sys.modules, "pyodbc", Driver(server))
    return server
