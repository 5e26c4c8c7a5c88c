"""The Redis of the tests is that of the system, or the one that comes with the packages."""

from __future__ import annotations

import socket

import pytest
import sqlalchemy as sa

from pipedag_airflow.testing.redis import RedisUnavailableError, redis_server


def answer(url: sa.URL) -> bytes:
    assert url.host is not None
    with socket.create_connection((url.host, url.port), 10) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(64)


@pytest.mark.parametrize("system", [True, False], ids=["with what is installed", "with the packages alone"])
def test_a_server_is_there_for_the_block(system: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not system:
        monkeypatch.setenv("PATH", "")
    with redis_server() as text:
        url = sa.make_url(text)
        assert answer(url) == b"+PONG\r\n"
    with pytest.raises(ConnectionRefusedError):
        answer(url)


def test_a_server_that_is_named_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPEDAG_TEST_REDIS_URL", "redis://elsewhere:6379/3")
    with redis_server() as url:
        assert url == "redis://elsewhere:6379/3"


def test_where_there_is_none_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    what_to_do = "apt-get install redis-server, or set PIPEDAG_TEST_REDIS_URL"
    with pytest.raises(RedisUnavailableError, match=what_to_do), redis_server():
        pass
