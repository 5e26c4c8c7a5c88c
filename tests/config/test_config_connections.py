"""Parts of the configuration that an Airflow connection describes, outside of Airflow: from the environment."""

from __future__ import annotations

import json

import pytest

from pipedag_airflow.config import PipedagConfig
from pipedag_airflow.config.connections import Connection, find_connection
from pipedag_airflow.config.known_secrets import known_secrets
from pipedag_airflow.errors import ConfigError

pytestmark = pytest.mark.usefixtures("outside_of_airflow")

PASSWORD = "pa/ss:w@rd 'x\""
QUOTED = "pa%2Fss%3Aw%40rd%20%27x%22"


class Store:
    """A part that a connection can describe."""

    def __init__(self, url=None, prefix="") -> None:
        self.url, self.prefix = url, prefix

    @classmethod
    def connection_args(cls, connection):
        if not connection.host:
            raise ConfigError(f"the connection {connection.conn_id!r} has no host")
        return {"url": f"store://{connection.login}:{connection.password}@{connection.host}"}


class Failing(Store):
    def __init__(self, url) -> None:
        raise RuntimeError(f"no answer from {url}")


class Unconnected:
    def __init__(self, url=None) -> None:
        self.url = url


def context(*, cls=Store, **args):
    return PipedagConfig({"instances": {"__any__": {"table_store": {"class": cls, "args": args}}}}).get()


@pytest.fixture
def warehouse(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", f"postgres://bob:{QUOTED}@db.example.org:5432/shop?sslmode=require")


WAREHOUSE = Connection(
    conn_id="warehouse",
    conn_type="postgres",
    host="db.example.org",
    port=5432,
    schema="shop",
    login="bob",
    password=PASSWORD,
    extra={"sslmode": "require"},
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"postgres://bob:{QUOTED}@db.example.org:5432/shop?sslmode=require", WAREHOUSE),
        (
            f"postgres://bob:{QUOTED}@db.example.org:5432/shop?__extra__=%7B%22sslmode%22%3A+%22require%22%7D",
            WAREHOUSE,
        ),
        (
            json.dumps(
                {
                    "conn_type": "postgres",
                    "host": "db.example.org",
                    "port": "5432",
                    "schema": "shop",
                    "login": "bob",
                    "password": PASSWORD,
                    "extra": {"sslmode": "require"},
                }
            ),
            WAREHOUSE,
        ),
        (
            '{"conn_type": "duckdb", "host": "/srv/Shop.duckdb", "port": null, "extra": "{\\"threads\\": 2}"}',
            Connection("warehouse", "duckdb", host="/srv/Shop.duckdb", extra={"threads": 2}),
        ),
        ("duckdb://%2Fsrv%2FShop.duckdb", Connection("warehouse", "duckdb", host="/srv/Shop.duckdb")),
        ("duckdb:////srv/Shop.duckdb", Connection("warehouse", "duckdb", schema="/srv/Shop.duckdb")),
        ("google-cloud-platform://", Connection("warehouse", "google_cloud_platform")),
    ],
)
def test_a_connection_is_read_as_airflow_reads_it(monkeypatch, text, expected):
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", text)
    assert find_connection("warehouse") == expected


@pytest.mark.parametrize(
    "text", ["{broken: hush-hush", '{"password": "hush-hush"}', "x://u:hush-hush@h:port/", "://hush-hush"]
)
def test_a_connection_that_cannot_be_read_is_an_error_without_its_text(monkeypatch, text):
    monkeypatch.setenv("AIRFLOW_CONN_BROKEN", text)
    with pytest.raises(ConfigError, match="AIRFLOW_CONN_BROKEN is neither a URI") as caught:
        find_connection("broken")
    assert "hush" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_part_gets_what_its_connection_says(warehouse):
    store = context(conn_id="warehouse", prefix="p_").table_store
    assert (store.url, store.prefix) == (f"store://bob:{PASSWORD}@db.example.org", "p_")


def test_nothing_is_looked_up_before_the_part_is_built(monkeypatch):
    built_later = context(conn_id="warehouse")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgres://u:p@late.example.org/")
    assert built_later.table_store.url == "store://u:p@late.example.org"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"conn_id": "missing"}, "no Airflow connection 'missing'.* AIRFLOW_CONN_MISSING, which is not set"),
        ({"conn_id": 3}, "expected the name of an Airflow connection, found a int"),
        ({"conn_id": "hostless"}, "the connection 'hostless' has no host"),
        ({"conn_id": "warehouse", "url": "duckdb://"}, r"both conn_id \('warehouse'\) and url.*\(url: null\)"),
        ({"conn_id": "warehouse", "cls": Unconnected}, "conn_id is no argument of Unconnected"),
    ],
)
def test_errors_name_the_place_and_the_connection(warehouse, monkeypatch, args, message):
    monkeypatch.setenv("AIRFLOW_CONN_HOSTLESS", "postgres://")
    with pytest.raises(ConfigError, match=r"\(instance '__any__'\): table_store\.args.*" + message):
        context(**args).table_store  # noqa: B018 (reading it builds it)


def test_an_instance_may_delete_a_url_to_have_a_connection_instead(warehouse):
    config = PipedagConfig(
        {
            "instances": {
                "__any__": {"table_store": {"class": Store, "args": {"url": "store://here"}}},
                "prod": {"table_store": {"args": {"url": None, "conn_id": "warehouse"}}},
            }
        }
    )
    assert config.get().table_store.url == "store://here"
    assert "db.example.org" in config.get("prod").table_store.url


def test_an_error_of_the_part_does_not_tell_the_password(warehouse):
    with pytest.raises(ConfigError, match="no answer from") as caught:
        context(cls=Failing, conn_id="warehouse").table_store  # noqa: B018 (reading it builds it)
    assert PASSWORD not in str(caught.value)
    assert "bob" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_secrets_are_known_from_when_they_are_looked_up_in_every_form(warehouse, monkeypatch):
    text = f"{PASSWORD}|{QUOTED}|{json.dumps(PASSWORD)}|{PASSWORD!r}|bob@db.example.org"
    assert known_secrets.hidden(text) == text
    told = []
    monkeypatch.setattr(known_secrets, "_listeners", [])
    known_secrets.tell(told.append)
    find_connection("warehouse")
    assert known_secrets.hidden(text) == "***|***|\"***\"|'***'|bob@db.example.org"
    assert {PASSWORD, QUOTED} <= set(told)


def test_secrets_of_the_configuration_are_known_from_when_a_part_is_built(monkeypatch):
    monkeypatch.setenv("PW", "hunter22")
    built = context(url="store://u:{$PW}@h")
    assert known_secrets.hidden("hunter22") == "hunter22"
    assert built.table_store.url == "store://u:hunter22@h"
    assert known_secrets.hidden("it is hunter22") == "it is ***"


def test_what_is_too_short_is_no_secret(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SHORT", "postgres://u:a@h/")
    find_connection("short")
    assert known_secrets.hidden("a cat") == "a cat"
