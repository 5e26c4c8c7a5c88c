"""What the metadata, the logs and XCom tell of the arguments of a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from pipedag_airflow import RawSql, Table
from pipedag_airflow.cache.decision import Decision, Reason, identify, why_different
from pipedag_airflow.cache.disclosure import shown_identity
from pipedag_airflow.config.known_secrets import known_secrets
from pipedag_airflow.core.classes import Classes
from pipedag_airflow.core.materialize import materialize
from pipedag_airflow.core.values import dump_identity


@dataclass
class Login:
    user: str
    password: str


@materialize(version="1")
def load(**arguments: Any) -> None:
    del arguments


def shown(name: str, value: Any) -> str:
    return shown_identity(name, dump_identity(value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "hunter22"),
        ("db_password", "hunter22"),
        ("api_key", "hunter22"),
        ("apiKey", "hunter22"),
        ("key", "hunter22"),
        ("accessToken", "hunter22"),
        ("client_secrets", ["x", "hunter22"]),
        ("options", {"user": "bob", "password": "hunter22"}),
        ("options", {1: "x", "password": "hunter22"}),
        ("options", [{"nested": {"aws_secret_access_key": "hunter22"}}]),
        ("login", Login("bob", "hunter22")),
        ("url", "postgres://bob:known-one@host/hunter22".replace("hunter22", "db")),
        ("text", "x" * 115 + "known-one"),
    ],
)
def test_secrets_are_not_shown_but_a_change_of_them_is(name, value):
    known_secrets.learn(["known-one"])
    text = shown(name, value)
    assert "hunter" not in text
    assert "known" not in text
    changed = eval(repr(value).replace("hunter22", "other").replace("bob", "eve").replace("xxx", "yyy"))
    assert shown(name, changed) != text


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("primary_key", "id", '"id"'),
        ("tokenizer", "bert", '"bert"'),
        ("max_tokens", 512, "512"),
        ("with_password", True, "true"),
        ("options", {"mode": "fast"}, '{"mode":"fast"}'),
    ],
)
def test_what_is_no_secret_is_shown_as_it_is(name, value, expected):
    assert shown(name, value) == expected


@pytest.mark.parametrize("kind", [Table, RawSql])
def test_a_table_is_not_mistaken_for_something_with_a_key(kind):
    stored = kind(name="t")
    stored.locate("stage", 1, "cache-key")
    assert shown("password", stored) == dump_identity(stored)


def test_of_a_long_text_the_beginning_and_a_hash_are_shown():
    assert shown("text", "x" * 200).startswith('"' + "x" * 119 + "… #")
    assert shown("text", "x" * 200) != shown("text", "x" * 201)


def test_the_reason_of_a_run_tells_that_a_secret_changed_and_not_from_what_to_what():
    before = identify(load, "load", {"password": "hunter22"}, "Task", Classes())
    now = identify(load, "load", {"password": "hunter33"}, "Task", Classes())
    decision = why_different(now, "1", before.inputs_json(), "")
    assert decision.reason is Reason.INPUT_CHANGED
    assert decision.detail.startswith("argument 'password': \"***\" #")
    assert "hunter" not in decision.detail + before.inputs_json()


def test_no_decision_tells_a_known_secret():
    known_secrets.learn(["hunter22"])
    assert Decision(False, Reason.QUERY_CHANGED, "attach 'password=hunter22'").detail == "attach 'password=***'"
