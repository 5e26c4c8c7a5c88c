"""The code within a blob: which functions and classes its pickle refers to by name.

Which classes a blob holds is known only when it is loaded, and a valid task loads nothing. So they must be among what
the function of the task reaches, or an edit of them would go unnoticed.
"""

from __future__ import annotations

import pickle
import types
from typing import TYPE_CHECKING, Any

from pipedag_airflow.cache.auto_version.homes import Homes
from pipedag_airflow.cache.auto_version.source import code_version
from pipedag_airflow.core.auto_version import AUTO_VERSION
from pipedag_airflow.errors import AutoVersionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipedag_airflow.core.task import UnboundTask

__all__ = ["check_blob"]


def check_blob(task: UnboundTask, blob: Any, arguments: Mapping[str, Any], where: str) -> None:
    """Check that the code of a task with AUTO_VERSION reaches the user's own classes in a blob that it gets.

    Args:
        task: The task.
        blob: What is in the blob.
        arguments: All arguments by parameter; tables and blobs are descriptors.
        where: The task for messages, such as ``Task 'clean.flights'``.

    Raises:
        AutoVersionError: if it does not; the message names them.
    """
    if task.version is not AUTO_VERSION:
        return
    homes = Homes.around(task.fn)
    own = [value for value in _code_in(blob, where) if homes.of_named(value) is None]
    reached = {id(value) for value in code_version(task.fn, task.input_type, where, arguments).reached} if own else ()
    missed = [f"{value.__module__}.{value.__qualname__}" for value in own if id(value) not in reached]
    if missed:
        raise AutoVersionError(
            f"{where} has AUTO_VERSION, and a blob that it gets holds {', '.join(missed)}, which its code does not "
            "name: an edit there would go unnoticed. Name it in the function, as in "
            f'"assert isinstance(..., {own[0].__qualname__})", or give the task a version of your own: version="1".'
        )


def _code_in(blob: Any, where: str) -> list[types.FunctionType | type]:
    pickler = _Noting(_Nowhere(), pickle.HIGHEST_PROTOCOL, buffer_callback=lambda _: None)
    try:
        pickler.dump(blob)
    except Exception as error:
        raise AutoVersionError(
            f"{where} has AUTO_VERSION, but the classes in a blob that it gets cannot be seen, because it cannot be "
            f'pickled again ({error}). Give the task a version of your own: version="1".'
        ) from error
    return pickler.found


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)


class _Noting(pickle.Pickler):
    """Notes the functions and classes that it pickles: it writes them by name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.found: list[types.FunctionType | type] = []

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (types.FunctionType, type)):
            self.found.append(obj)
        return NotImplemented
