"""ZooKeeper for the tests of lock managers."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest
from kazoo.client import KazooClient

from pipedag_airflow.testing.zookeeper import HOSTS_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

_paths = (f"/tests/{os.getpid()}/{number}" for number in itertools.count())


@pytest.fixture
def hosts(request: pytest.FixtureRequest) -> str:
    """Servers for tests that break none: those of the environment, or one of our own."""
    given = os.environ.get(HOSTS_VARIABLE)
    return given or str(request.getfixturevalue("zookeeper_server").hosts)


@pytest.fixture
def base_path() -> str:
    """A path for the leases of one test."""
    return next(_paths)


@pytest.fixture
def look(hosts: str) -> Iterator[KazooClient]:
    """A client that looks at the znodes as anybody could."""
    client = KazooClient(hosts)
    client.start()
    yield client
    client.stop()
    client.close()
