"""AUTO_VERSION of polars tasks: Python functions in expressions, eager frames, expressions made at module level."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import polars as pl
import pytest

from pipedag_airflow.cache.auto_version import code_version
from pipedag_airflow.cache.auto_version.values import _POLARS_PYTHON
from pipedag_airflow.errors import AutoVersionError

FUNCTION = """
import polars as pl

FACTOR = 2

def scaled(value):
    return value * FACTOR

def tax(frame):
    return frame.with_columns(tax=pl.col("price").map_elements(scaled, return_dtype=pl.Int64))

def task(sold, bought):
    return tax(sold), sold.join(bought, on="id")
"""

EAGER = """
import polars as pl

def task(sold, bought):
    total = sold.select(pl.col("price").sum()).collect().item()
    return sold.filter(pl.col("price") * 2 > total)
"""


def load(source: str) -> Any:
    module = ModuleType("shop")
    exec(compile(source, "shop.py", "exec", dont_inherit=True), vars(module))
    return module.task


def version(source: str) -> str:
    return code_version(load(source), pl.LazyFrame).version


@pytest.mark.parametrize(
    ("source", "old", "new"),
    [
        (FUNCTION, "FACTOR = 2", "FACTOR = 3"),
        (FUNCTION, "value * FACTOR", "value + FACTOR"),
        (FUNCTION, "pl.Int64", "pl.Float64"),
        (FUNCTION, "sold.join(bought", "bought.join(sold"),
        (FUNCTION, "tax(sold)", "tax(bought)"),
        # The plan holds only what came of the frame that was collected: for an empty one these are the same plan.
        (EAGER, "sum()", "max()"),
    ],
)
def test_an_edit_behind_the_plan_changes_the_version(source: str, old: str, new: str) -> None:
    assert old in source
    assert version(source) != version(source.replace(old, new))


def test_moving_a_function_of_an_expression_changes_nothing() -> None:
    assert version(FUNCTION) == version(FUNCTION.replace("def scaled", "\n\n# scales\ndef scaled"))


def test_an_expression_of_the_module_is_compared_by_what_it_says() -> None:
    source = (
        "import polars as pl\nE = pl.col('a') + 1\nF = pl.LazyFrame({'a': [1]})\ndef task(x): return x.select(E), F"
    )

    assert version(source) == version(source)
    assert version(source) != version(source.replace("+ 1", "+ 2"))
    assert version(source) != version(source.replace("[1]", "[2]"))


@pytest.mark.parametrize(
    "made", ["pl.col('a').map_elements(scaled, pl.Int64)", "pl.LazyFrame({'a': [1]}).map_batches(scaled)"]
)
def test_an_expression_of_the_module_with_a_function_in_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    # It can be serialised when its function can be imported; the function is then no more than its name.
    source = f"import polars as pl\ndef scaled(x): return x\nE = {made}\ndef task(x): return x.select(E)"
    module = ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", module)
    exec(compile(source, "shop.py", "exec", dont_inherit=True), vars(module))

    with pytest.raises(AutoVersionError, match="uses E"):
        code_version(module.task)


@pytest.mark.parametrize("mark", _POLARS_PYTHON)
def test_so_it_is_where_polars_can_serialise_the_function(monkeypatch: pytest.MonkeyPatch, mark: bytes) -> None:
    # With cloudpickle installed.
    monkeypatch.setattr(pl.Expr, "__getstate__", lambda self: b"plan " + mark + b" shop.scaled")

    with pytest.raises(AutoVersionError, match="uses E, an expression with a Python function in it"):
        version("import polars as pl\nE = pl.col('a')\ndef task(x): return x.select(E)")
