"""What users import: names, the tree of errors, and what importing the package does not load."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from importlib import import_module

import pytest

import pipedag_airflow
from pipedag_airflow import errors

HEAVY = ["pandas", "polars", "pyarrow", "numpy", "duckdb", "sqlalchemy", "airflow", "yaml"]

AUTHORING = """
import sys
from pipedag_airflow import Blob, Flow, RawSql, Stage, Table, materialize

@materialize(version="1", nout=2)
def task(*args):
    return Table(None, "t", primary_key="id"), Blob(1), RawSql("SELECT 1")

task()
with Flow("flow") as flow:
    with Stage("stage") as stage:
        a, b = task(1, {"x": [stage]})
    with Stage("other"):
        task(a["k"], b)
flow.plan().fingerprint
print(*sys.modules)
"""

PATHS = [
    "backend.blob.FileBlobStore",
    "backend.lock.DatabaseLockManager",
    "backend.lock.FileLockManager",
    "backend.lock.NoLockManager",
    "backend.table.SQLTableStore",
    "backend.table.sql.ExternalTableReference",
    "backend.table.sql.dialects.DuckDBTableStore",
    "context.CacheValidationMode",
    "context.ConfigContext",
    "context.StageLockContext",
    "engine.DaskEngine",
    "engine.PrefectTwoEngine",
    "engine.SequentialEngine",
    *(f"errors.{name}" for name in errors.__all__),
]


# --- names -------------------------------------------------------------------------------------------------------


def test_the_public_names_are_sorted():
    assert pipedag_airflow.__all__ == sorted(pipedag_airflow.__all__)
    assert dir(pipedag_airflow) == pipedag_airflow.__all__


def test_the_public_names_are_those_of_the_api():
    assert set(pipedag_airflow.__all__) == {
        *("Flow", "Stage", "materialize", "AUTO_VERSION", "Table", "RawSql", "Blob"),
        *("Result", "PipedagConfig", "ConfigContext", "StageLockContext", "PrefectEngine"),
        # Ours, beyond the API reference.
        *("CacheValidationMode", "ExternalTableReference", "GroupNode", "View"),
        *("create_basic_pipedag_config", "input_stage_versions"),
    }


def test_type_checkers_see_the_same_names():
    tree = ast.parse(inspect.getsource(pipedag_airflow))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name: node.module for node in block.body for alias in node.names}
    assert imported == {name: f"pipedag_airflow.{home}" for name, home in pipedag_airflow._HOMES.items()}
    assert sorted(imported) == pipedag_airflow.__all__


@pytest.mark.parametrize("name", pipedag_airflow.__all__)
def test_every_public_name_can_be_imported_and_is_documented(name):
    public = getattr(pipedag_airflow, name)
    assert getattr(public, "__name__", repr(public)) == {"PrefectEngine": "PrefectTwoEngine"}.get(name, name)
    assert public.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'pipedag_airflow' has no attribute 'Flaw'"):
        pipedag_airflow.Flaw  # noqa: B018
    with pytest.raises(ImportError):
        exec("from pipedag_airflow import Flaw")


@pytest.mark.parametrize("path", PATHS)
def test_every_public_path_can_be_imported(path):
    module, _, name = f"pipedag_airflow.{path}".rpartition(".")
    assert getattr(import_module(module), name).__name__ == name


@pytest.mark.parametrize("module", ["backend.table", "backend.table.sql.dialects"])
def test_an_unknown_name_of_a_lazy_module_is_an_attribute_error(module):
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        import_module(f"pipedag_airflow.{module}").Nothing  # noqa: B018


def modules_after(code):
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(outcome.stdout.split())


@pytest.mark.parametrize(
    "code", ["import sys, pipedag_airflow; print(*sys.modules)", AUTHORING], ids=["import", "flow"]
)
def test_importing_and_authoring_load_no_library_of_data_nor_airflow(code):
    loaded = modules_after(code)
    assert "pipedag_airflow" in loaded
    assert loaded.isdisjoint(HEAVY)


# --- errors ------------------------------------------------------------------------------------------------------


def drawn_tree():
    """Return for each error of the drawing its parent and the built-in error that it also is."""
    tree, path = {}, []
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ((?:[│├└─ ]{4})*)(\w+)(?: \((\w+)\))?(?:\s|$)", line)
        if match and (match[2].endswith("Error")):
            path = [*path[: len(match[1]) // 4], match[2]]
            tree[match[2]] = (path[-2] if len(path) > 1 else "Exception", match[3])
    return tree


def test_the_tree_in_the_docstring_has_every_error():
    assert sorted(drawn_tree()) == errors.__all__
    defined = {name for name, thing in vars(errors).items() if inspect.isclass(thing)}
    assert defined == set(errors.__all__)


@pytest.mark.parametrize("name", errors.__all__)
def test_the_tree_in_the_docstring_is_the_tree_of_the_classes(name):
    parent, builtin = drawn_tree()[name]
    bases = [parent] if builtin is None else [parent, builtin]
    assert [base.__name__ for base in getattr(errors, name).__bases__] == bases


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_shows_its_message_as_it_is(name):
    assert str(getattr(errors, name)("it's gone")) == "it's gone"
