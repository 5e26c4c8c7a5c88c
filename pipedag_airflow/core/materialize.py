"""The :func:`materialize` decorator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from pipedag_airflow.core.task import UnboundTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pipedag_airflow.core.auto_version import AutoVersion

__all__ = ["materialize"]


@overload
def materialize(fn: Callable[..., Any], /) -> UnboundTask: ...
@overload
def materialize(
    *,
    name: str | None = None,
    input_type: Any = None,
    version: str | AutoVersion | None = None,
    cache: Callable[..., Any] | None = None,
    lazy: bool = False,
    nout: int = 1,
    tags: str | Iterable[str] = (),
    airflow: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., Any]], UnboundTask]: ...
def materialize(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    input_type: Any = None,
    version: str | AutoVersion | None = None,
    cache: Callable[..., Any] | None = None,
    lazy: bool = False,
    nout: int = 1,
    tags: str | Iterable[str] = (),
    airflow: Mapping[str, Any] | None = None,
) -> Any:
    """Make a task of a function: its outputs are stored, its inputs are loaded.

    Inputs and outputs may consist of dict, list, tuple, int, float, str, bool, None, date, datetime, time, timedelta,
    Path, members of enums, instances of dataclasses, :class:`Table`, :class:`RawSql`, :class:`Blob` and
    :class:`Stage`. Enums and dataclasses are defined at the top level of a module; of a dataclass the fields are kept.

    Args:
        fn: The function, where the decorator is used without arguments.
        name: Name of the task; default is the name of the function.
        input_type: Type in which tables arrive: ``pandas.DataFrame``, ``polars.DataFrame``, ``polars.LazyFrame``,
            ``sqlalchemy.Table`` or ``ibis.Table``.
        version: Version of the function. Change it whenever the function changes: the task then runs again. None: the
            task always runs (unless it is lazy). ``AUTO_VERSION``: the version is made from the function's code and all
            code that it uses; needs an ``input_type``.
        cache: A function of the same arguments (tables arrive as descriptors) that is called before the task in every
            run. When its result changes, the task runs again.
        lazy: The function is called in every run, but a query that it returns is executed only if it changed.
        nout: Number of objects that the function returns, for unpacking while wiring.
        tags: What the task can be selected by, as in ``flow.run("tag:nightly")``: one tag or several.
        airflow: What Airflow makes of it, such as ``{"retries": 2, "queue": "large", "doc_md": "..."}``; see
            docs/airflow.md. Its documentation there is the function's docstring if nothing else is said.

    Returns:
        An :class:`UnboundTask`, or the decorator that makes one.

    Raises:
        ConfigError: if ``airflow`` has a key that is unknown.
        ValueError: if ``nout`` is not a positive int; if ``AUTO_VERSION`` stands without ``input_type``, or beside
            ``lazy``; if a tag could not be written in a selection.

    Example:
        ::

            @materialize(version="1.0", input_type=pd.DataFrame)
            def clean(df: pd.DataFrame):
                return Table(df.dropna(), "clean", primary_key="id")
    """

    def decorate(function: Callable[..., Any]) -> UnboundTask:
        return UnboundTask(
            function,
            name=name,
            input_type=input_type,
            version=version,
            cache=cache,
            lazy=lazy,
            nout=nout,
            tags=tags,
            airflow=airflow,
        )

    return decorate if fn is None else decorate(fn)
