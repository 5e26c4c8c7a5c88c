"""Tasks with AUTO_VERSION in a flow: they run when their code changes, and their consumers follow."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pipedag_airflow.cache.decision import Reason
from pipedag_airflow.errors import AutoVersionError
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish

if TYPE_CHECKING:
    from conftest import Project

    from pipedag_airflow import Flow

SHOP = """
import logging
import pandas as pd
import polars as pl
from pipedag_airflow import AUTO_VERSION, Flow, Stage, Table, materialize

RATE = 2
calls = logging.getLogger("calls")


def clean_names(names):
    return names.str.lower()


@materialize(input_type=pd.DataFrame, version=AUTO_VERSION)
def products():
    calls.info("products")
    frame = pd.DataFrame({"name": ["Pen", "Cup"], "price": [1, 3]})
    return Table(frame.assign(name=clean_names(frame["name"])), "products")


@materialize(input_type=pl.LazyFrame, version=AUTO_VERSION)
def prices(table):
    calls.info("prices")
    return Table(table.select("name", price=pl.col("price").map_batches(lambda v: v * RATE)), "prices")


@materialize(input_type=pd.DataFrame, version="1")
def report(table):
    calls.info("report")
    return Table(table, "report")


with Flow("shop") as flow:
    with Stage("raw"):
        found = products()
    with Stage("mart"):
        report(prices(found))
"""


#: Tasks that call methods of what they are given.
RULES = """
import enum
import logging
from dataclasses import dataclass
import pandas as pd
from pipedag_airflow import AUTO_VERSION, Blob, Flow, Stage, Table, materialize

calls = logging.getLogger("calls")


@dataclass
class Config:
    rate: int

    def apply(self, frame):
        return frame.assign(price=frame["price"] + self.rate)


class Mode(enum.Enum):
    CHEAP = 1


def raised(frame, mode):
    return frame[frame["price"] > mode.value]


@materialize(version="1")
def config():
    return {"all": [Config(2)]}


@materialize(version="1", input_type=pd.DataFrame)
def products():
    return Table(pd.DataFrame({"price": [1, 3]}), "products")


@materialize(input_type=pd.DataFrame, version=AUTO_VERSION)
def by_dataclass(frame, config):
    calls.info("by_dataclass")
    return Table(config.apply(frame), "by_dataclass")


@materialize(input_type=pd.DataFrame, version=AUTO_VERSION)
def by_result(frame, configs):
    calls.info("by_result")
    return Table(configs[0].apply(frame), "by_result")


@materialize(input_type=pd.DataFrame, version=AUTO_VERSION)
def by_enum(frame, mode):
    calls.info("by_enum")
    return Table(raised(frame, mode), "by_enum")


with Flow("rules") as flow, Stage("s"):
    frame = products()
    by_dataclass(frame, Config(2))
    by_result(frame, config()["all"])
    by_enum(frame, Mode.CHEAP)
"""


#: A blob of a class of the user's own, made by a task whose version never changes.
MODELS = """
import logging
from dataclasses import dataclass
from pipedag_airflow import AUTO_VERSION, Blob, Flow, Stage, materialize
import pandas as pd

calls = logging.getLogger("calls")


class Layer:
    def bias(self):
        return 1


class Model:
    def __init__(self):
        self.layers = [Layer(), len]

    def predict(self, x):
        return x + self.layers[0].bias()


@materialize(version="1")
def train():
    return {"model": Blob(Model(), "model"), "plain": Blob([{"a": pd.Timestamp(0)}, {1}], "plain")}


@materialize(input_type=pd.DataFrame, version=AUTO_VERSION)
def apply(model, plain):
    calls.info("apply")
    return model.predict(len(plain))


with Flow("models") as flow, Stage("s"):
    made = train()
    apply(made["model"], made["plain"])
"""


class Shop:
    """The module of a flow, which a user edits."""

    def __init__(self, project: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project = project
        self._caplog = caplog
        self._monkeypatch = monkeypatch
        self._source = SHOP
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        monkeypatch.syspath_prepend(project.folder)
        caplog.set_level(logging.INFO)

    def write(self, source: str) -> None:
        self._source = source

    def edit(self, old: str, new: str) -> None:
        assert old in self._source
        self._source = self._source.replace(old, new)

    def flow(self) -> Flow:
        (self.project.folder / "edited_shop.py").write_text(self._source)
        self._monkeypatch.delitem(sys.modules, "edited_shop", raising=False)
        importlib.invalidate_caches()
        flow: Flow = importlib.import_module("edited_shop").flow
        return flow

    def run(self, **arguments: Any) -> list[str]:
        """Run the flow and return the functions that were called."""
        self._caplog.clear()
        assert self.project.run(self.flow(), **arguments).successful
        return [record.message for record in self._caplog.records if record.name == "calls"]

    def reason(self, node: str) -> str:
        """Return the line in the log that says why a task ran."""
        lines = [record.getMessage() for record in self._caplog.records]
        return next(line for line in lines if line.startswith(f"{node}: runs") and "inputs_open" not in line)


@pytest.fixture
def shop(project: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(project, caplog, monkeypatch)


@pytest.mark.databases("duckdb", "postgres")
def test_a_task_is_called_once_when_it_runs_and_not_at_all_when_it_is_valid(shop: Shop) -> None:
    assert shop.run() == ["products", "prices", "report"]
    assert shop.run() == []


@pytest.mark.parametrize(
    ("old", "new", "called", "reason"),
    [
        ("RATE = 2", "RATE = 3", ["prices", "report"], ("mart.prices", "global RATE")),
        ("v * RATE", "v - RATE", ["prices", "report"], ("mart.prices", "function prices in module edited_shop")),
        ("lower()", "upper()", ["products", "prices", "report"], ("raw.products", "function clean_names in module")),
        ("def clean_names(names):", "def clean_names(names):\n    # a comment", [], None),
        ("def products():", "def products():\n    '''The products.'''", [], None),
    ],
)
def test_an_edit_runs_the_tasks_that_it_changes_and_says_what_changed(
    shop: Shop, old: str, new: str, called: list[str], reason: tuple[str, str] | None
) -> None:
    shop.run()
    shop.edit(old, new)

    assert shop.run() == called
    if reason is not None:
        node, part = reason
        assert "version_changed" in shop.reason(node)
        assert part in shop.reason(node)
    assert shop.run() == []


@pytest.mark.parametrize(
    ("old", "new", "called", "node", "part"),
    [
        ('["price"] + self', '["price"] * self', ["by_dataclass", "by_result"], "s.by_result", "Config.apply"),
        ("CHEAP = 1", "CHEAP = 2", ["by_enum"], "s.by_enum", "class Mode"),
        ('["price"] > mode', '["price"] >= mode', ["by_enum"], "s.by_enum", "function raised"),
        ("def apply(self, frame):", "def apply(self, frame):\n        # a comment", [], None, None),
    ],
)
def test_an_edit_of_what_the_arguments_can_do_runs_the_tasks_that_have_them(
    shop: Shop, old: str, new: str, called: list[str], node: str | None, part: str
) -> None:
    shop.write(RULES)
    assert shop.run() == ["by_dataclass", "by_result", "by_enum"]
    assert shop.run() == []
    shop.edit(old, new)

    assert shop.run() == called
    if node is not None:
        assert part in shop.reason(node)
    assert shop.run() == []


def test_a_blob_of_a_class_that_the_code_does_not_name_stops_the_first_run(shop: Shop) -> None:
    shop.write(MODELS)
    with pytest.raises(AutoVersionError, match=r"'s\.apply'.* holds edited_shop\.Model, edited_shop\.Layer, which its"):
        shop.run()


@pytest.mark.parametrize(("old", "new"), [("x + self.layers", "x * self.layers"), ("return 1", "return 2")])
def test_an_edit_of_a_class_of_a_blob_that_the_code_names_runs_the_task(shop: Shop, old: str, new: str) -> None:
    shop.write(MODELS)
    shop.edit('calls.info("apply")', 'calls.info("apply")\n    assert isinstance(model, Model)')
    assert shop.run() == ["apply"]
    assert shop.run() == []
    shop.edit(old, new)

    assert shop.run() == ["apply"]
    assert shop.run() == []


def test_an_edit_that_is_taken_back_runs_again(shop: Shop) -> None:
    shop.run()
    shop.edit("RATE = 2", "RATE = 3")
    shop.run()
    shop.edit("RATE = 3", "RATE = 2")

    assert shop.run() == ["prices", "report"]


def test_going_to_auto_version_is_a_change_of_version(shop: Shop) -> None:
    shop.edit("input_type=pl.LazyFrame, version=AUTO_VERSION", 'input_type=pl.LazyFrame, version="1"')
    shop.run()
    shop.edit('input_type=pl.LazyFrame, version="1"', "input_type=pl.LazyFrame, version=AUTO_VERSION")

    assert shop.run() == ["prices", "report"]
    assert "version '1' is now 'auto_" in shop.reason("mart.prices")


def test_ignore_task_version_leaves_auto_version_alone(shop: Shop) -> None:
    shop.run()

    assert shop.run(config=shop.project.config(ignore_task_version=True)) == ["report"]


def test_code_that_cannot_be_followed_stops_the_first_run_with_the_name(shop: Shop) -> None:
    shop.edit("RATE = 2", "import threading\nRATE = threading.Lock()")
    shop.edit("v * RATE", "v if RATE else v")

    with pytest.raises(
        AutoVersionError, match=r"Task 'mart\.prices' has AUTO_VERSION.*function prices in module edited_shop uses RATE"
    ):
        shop.run()


def test_begin_finds_an_edit_before_any_task_runs(shop: Shop) -> None:
    shop.run()
    shop.edit("lower()", "title()")

    report = begin(shop.project.session(shop.flow()), "raw")

    assert report.decisions["raw.products"].reason is Reason.VERSION_CHANGED
    assert "clean_names" in report.decisions["raw.products"].detail


def test_a_publish_looks_at_no_code_while_others_wait_for_its_transaction(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = shop.project.session(shop.flow())
    begin(session, "raw")
    execute(session, "raw.products")

    def refuse(*_: Any) -> None:
        pytest.fail("code was looked at")

    monkeypatch.setattr("pipedag_airflow.cache.decision.code_version", refuse)
    assert publish(session, "raw").published
