"""Flows of one name in several files of a dags folder.

Airflow parses each file in a process of its own, and of two DAGs of one id the one that was parsed last wins, without
an error. So whoever registers a flow looks at the text of the other files, and *both* files become import errors: which
of them is meant is not ours to guess, and a copy that sorts first must not take over the runs of the original.

The text is only read, never executed. A flow counts that the module itself makes when it is imported, under a name that
stands in its text; made by a function or under a computed name it is found from the other side, when its own file is
parsed. So is a flow that is called like the DAG of a stage of another one, ``shop.raw``. A file that gives its DAGs ids
of their own (``to_dag(dag_id=...)``) is not searched.
"""

from __future__ import annotations

import ast
import os
import sys
import warnings
import weakref
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.utils.file import list_py_file_paths

from pipedag_airflow.core.flow import DEFAULT_NAME
from pipedag_airflow.errors import DuplicateNameError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

__all__ = ["refuse_namesakes"]

#: What each DagBag found in the folder that it belongs to: the files that may hold a flow, and their text.
_texts: weakref.WeakKeyDictionary[Any, dict[Path, bytes]] = weakref.WeakKeyDictionary()


def refuse_namesakes(dag_ids: Sequence[str], module: Mapping[str, Any], *, flow_name: bool) -> None:
    """Refuse the DAGs of a flow if another file, of those that Airflow parses with this one, has a flow of such a name.

    The process of a task is not bothered: it was started from the right file, and need not read all others.

    Args:
        dag_ids: Ids of the DAGs.
        module: Global variables of the module that is being parsed.
        flow_name: Whether they are of the flow's name only, which a later ``to_dag(dag_id=...)`` may exchange.

    Raises:
        DuplicateNameError: if there is another one.
    """
    bag, file = _importing_bag(), module.get("__file__")
    if bag is None or file is None:
        return
    own = _real(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about another file, or Airflow's own: Airflow would show them at this one
        others = _other_files(bag, own, dag_ids, flow_name=flow_name)
    for dag_id, paths in others.items():
        files = " and ".join(sorted(map(str, [own, *paths])))
        raise DuplicateNameError(
            f"The files {files} each have a flow, and so a DAG, of the name {dag_id!r}. Airflow would run any one of "
            "them, and change from one to the other without a word; so none is taken. Give each flow a name of its "
            "own, or list the file that shall not be a DAG in .airflowignore."
        )


def _importing_bag() -> Any:
    """Return the DagBag that imports the module, or None where Airflow imports it to execute one of its tasks."""
    # Airflow says neither in its parsing context. The bag knows the folder of its bundle.
    bag = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "airflow.sdk.execution_time.task_runner":
            return None
        caller = frame.f_locals.get("self")
        if bag is None and getattr(caller, "bundle_path", None) is not None:
            bag = caller
        frame = frame.f_back
    return bag


def _other_files(bag: Any, own: Path, dag_ids: Sequence[str], *, flow_name: bool) -> dict[str, list[Path]]:
    """Return the other files that have a flow of such a name, by that name."""
    texts = _texts.get(bag)
    if texts is None:
        texts = _texts[bag] = dict(_flow_texts(bag.bundle_path))
    if flow_name and _names(texts.get(own, b"")) is None:
        return {}
    found: dict[str, list[Path]] = {}
    for path, text in texts.items():
        for dag_id in () if path == own else _flows_in(text, dag_ids):
            found.setdefault(dag_id, []).append(path)
    return found


def _real(file: str | Path) -> Path:
    """Follow links: a file that is reached in two ways is one file."""
    return Path(os.path.realpath(file))


def _flow_texts(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for file in list_py_file_paths(folder):
        for path, text in _modules(Path(file)):
            if b"pipedag" in text and b"Flow(" in text:
                yield _real(path), text


def _modules(file: Path) -> Iterator[tuple[Path, bytes]]:
    """Read a file, or of an archive the modules that Airflow would import."""
    if file.suffix == ".py":
        yield file, file.read_bytes()
        return
    with zipfile.ZipFile(file) as archive:
        for member in archive.namelist():
            if member.endswith(".py") and "/" not in member:
                yield file / member, archive.read(member)


def _flows_in(text: bytes, names: Sequence[str]) -> list[str]:
    """Return those of the names that flows of a module have."""
    # Looking for the names first keeps all other files from being compiled.
    said = [name for name in names if name == DEFAULT_NAME or name.encode() in text]
    known = (_names(text) or ()) if said else ()
    return [name for name in said if name in known]


def _names(text: bytes) -> set[str] | None:
    """Return the names of the flows that a module makes when it is imported; None if its DAGs have other ids."""
    try:
        calls = list(_calls(ast.parse(text).body))
    except (SyntaxError, ValueError):
        return set()  # an import error of its own
    if any(_called(call) == "to_dag" and _gives_an_id(call) for call in calls):
        return None
    return {name for call in calls if _called(call) == "Flow" and (name := _literal_name(call)) is not None}


def _calls(nodes: list[ast.stmt]) -> Iterator[ast.Call]:
    """Find the calls that are made on import; what functions do, they do for whoever calls them."""
    stack: list[ast.AST] = [*nodes]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Call):
            yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and _is_main(node.test):
            stack += node.orelse
        else:
            stack += ast.iter_child_nodes(node)


def _is_main(test: ast.expr) -> bool:
    """Say whether a condition is that of a script: ``if __name__ == "__main__"``."""
    text = ast.unparse(test)
    return "__name__" in text and "__main__" in text


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _gives_an_id(call: ast.Call) -> bool:
    return any(keyword.arg in ("dag_id", None) for keyword in call.keywords)


def _literal_name(call: ast.Call) -> str | None:
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    if not values:
        return DEFAULT_NAME
    return values[0].value if isinstance(values[0], ast.Constant) and isinstance(values[0].value, str) else None
