"""Building the objects that a configuration describes by ``class`` and ``args``."""

from __future__ import annotations

import inspect
from functools import partial
from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any

from pipedag_airflow.config.connections import find_connection
from pipedag_airflow.config.known_secrets import cause_without_secrets, known_secrets, without_secrets
from pipedag_airflow.config.redacting import Secrets
from pipedag_airflow.config.registry import find_registered
from pipedag_airflow.core.naming import suggest
from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pipedag_airflow.config.context import ConfigContext

_REFERENCE_PACKAGE = "pydiverse.pipedag."
_COMPONENTS = ("table_store", "blob_store", "lock_manager", "orchestration")


class LiveObjects:
    """The objects that were built for a context, each built once.

    Contexts that differ in the options of a run alone share one of these. It is empty after pickling: connections and
    locks belong to one process.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._objects: dict[str, Any] = {}

    def get(self, path: str, build: Callable[[], Any]) -> Any:
        """Give the object of a path, and build it if it is the first time.

        Args:
            path: The path of the object in the configuration.
            build: Builds the object. It may ask for other objects of the context.

        Returns:
            The object.
        """
        with self._lock:
            if path not in self._objects:
                self._objects[path] = build()
            return self._objects[path]

    def __reduce__(self) -> tuple[type[LiveObjects], tuple[()]]:
        return LiveObjects, ()


def create_object(context: ConfigContext, path: str) -> Any:
    """Build the object that a part of the configuration describes.

    Where its arguments name an Airflow connection by ``conn_id``, and its class has a class method ``connection_args``,
    the connection is looked up now, and ``connection_args(connection)`` gives the arguments that it stands for.

    Args:
        context: The configuration. It is the first argument of the class method ``from_config`` if the class has one.
        path: The dotted path of the part, such as ``table_store.local_table_cache``.

    Returns:
        A new object: ``cls.from_config(context, **args)`` or ``cls(**args)``.

    Raises:
        ConfigError: If the part has no class, the class is not known, cannot be imported or does not accept its
            arguments, or there is no such connection.
    """
    # From here on the process has the secrets in its hands.
    known_secrets.learn(Secrets.of(context.config_dict).texts)
    place = f"{context.source} (instance {context.instance_name!r}): {path}"
    part = _part(context.config_dict, path)
    if not part.get("class"):
        raise ConfigError(f"{place}.class is missing. Write the name or the dotted path of the class to use there.")
    cls = part["class"] if isinstance(part["class"], type) else _loaded(part["class"], path, f"{place}.class")
    args = _with_connection(cls, part.get("args") or {}, f"{place}.args")
    build: Callable[..., Any] = getattr(cls, "from_config", cls)
    given = (context,) if hasattr(cls, "from_config") else ()
    _refuse_unknown(build, args, f"{place}.args", len(given))
    try:
        return build(*given, **args)
    except Exception as error:  # whatever a backend raises, the message has to say which one and where it is configured
        secrets = Secrets.of([context.config_dict, args])
        problem = f"{cls.__module__}.{cls.__qualname__} cannot be built: {type(error).__name__}: {error}"
        failure = ConfigError(f"{place}: {secrets.hidden(problem)}")
        if not secrets.are_told_by(error):
            raise failure from error
    # A chained error is printed too, so one that tells a secret must not be chained.
    raise failure


def _part(section: dict[str, Any], path: str) -> dict[str, Any]:
    for key in path.split("."):
        section = section.get(key) or {}
    return section


def _with_connection(cls: type[Any], args: dict[str, Any], place: str) -> dict[str, Any]:
    """Put what a connection stands for in the place of ``conn_id``."""
    if "conn_id" not in args or not hasattr(cls, "connection_args"):
        return args
    rest = {name: value for name, value in args.items() if name != "conn_id"}
    try:
        meant: dict[str, Any] = cls.connection_args(find_connection(args["conn_id"]))
    except ConfigError as error:
        raise ConfigError(f"{place}.conn_id: {error}.") from error
    twice = sorted(meant.keys() & rest.keys())
    if twice:
        raise ConfigError(
            f"{place} has both conn_id ({args['conn_id']!r}) and {', '.join(twice)}, which the connection says, too. "
            f"Keep one of them; a value that comes from another section is deleted by null ({twice[0]}: null)."
        )
    return rest | meant


def _loaded(name: str, path: str, place: str) -> type[Any]:
    """Load a class by its dotted path, or by the short name under which it is registered."""
    _refuse_reference_class(name, place)
    try:
        load = partial(_imported, name) if "." in name else find_registered(path, name).load
    except ConfigError as error:
        raise ConfigError(f"{place} is {name!r}, {error}.") from error
    try:
        found = load()
    except Exception as error:  # a module may fail in any way while it is imported
        problem = (
            f"{place} is {name!r}, which cannot be imported: {type(error).__name__}: {error}. "
            "Correct the path, or install the package in the environment of this process."
        )
        raise ConfigError(without_secrets(problem)) from cause_without_secrets(error)
    if not isinstance(found, type):
        raise ConfigError(f"{place} is {name!r}, which is a {type(found).__name__} and no class.")
    return found


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def refuse_reference_classes(section: dict[str, Any], place: str) -> None:
    """Refuse class paths of the package that this one takes the place of, before anything is built.

    Args:
        section: A section of the configuration, placeholders expanded.
        place: The file and the section, for the error message.

    Raises:
        ConfigError: If there is one; the message has the path to write instead.
    """
    for component in _COMPONENTS:
        part = section.get(component) or {}
        for path, inner in ((component, part), *((f"{component}.{key}", part.get(key)) for key in part)):
            if isinstance(inner, dict) and isinstance(inner.get("class"), str):
                _refuse_reference_class(inner["class"], f"{place}: {path}.class")


def _refuse_reference_class(name: str, place: str) -> None:
    if name.startswith(_REFERENCE_PACKAGE):
        ours = f"pipedag_airflow.{name.removeprefix(_REFERENCE_PACKAGE)}"
        raise ConfigError(f"{place} is {name!r}, a class of another package. Write {ours!r}.")


def _refuse_unknown(build: Callable[..., Any], args: Iterable[str], place: str, given: int) -> None:
    try:
        parameters = list(inspect.signature(build).parameters.values())[given:]
    except (TypeError, ValueError):
        return  # a class written in C; it will complain itself
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = {parameter.name for parameter in parameters}
    for name in args:
        if name not in names:
            raise ConfigError(f"{place}.{name} is no argument of {build.__qualname__}; {suggest(str(name), names)}")
