"""A run, packed for another process: as small as can be, and without secrets.

What is found by name there goes by name: the flow as a variable of its module, tasks as functions of theirs, and the
configuration as the file that it was read from. Only what has no name goes as it is: a flow that was made in a
function, a notebook or a script, and a configuration that was never in a file; none with a password goes.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import pickle
import sys
from copyreg import __newobj__  # type: ignore[attr-defined]  # typeshed leaves out what pickles name
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.config import ConfigContext, PipedagConfig
from pipedag_airflow.config.redacting import Secrets
from pipedag_airflow.core.flow import Flow
from pipedag_airflow.core.plan import compile_plan
from pipedag_airflow.core.task import TaskGetItem, UnboundTask
from pipedag_airflow.errors import ConfigError, FlowError
from pipedag_airflow.run.session import RunSession

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["packed", "unpacked"]

#: What makes up a run; the rest each process has for itself. The flow comes first: its tasks lead from one to the next.
_PARTS = ("flow", "config", "owner", "engine", "keeps_stages", "selection", "overrides")
#: Attributes of a configuration that hold sections of the file, and so maybe passwords.
_SECTIONS = {"config_dict", "attrs", "table_hook_args", "airflow", "_live"}


def packed(session: RunSession) -> bytes:
    """Pack a run.

    Raises:
        ConfigError: if the configuration holds a password and was not read from a file.
    """
    import cloudpickle

    class Packer(cloudpickle.Pickler):  # type: ignore[misc] # cloudpickle has no types
        """Puts names in the place of what another process finds by them."""

        def reducer_override(self, obj: Any) -> Any:
            for kind, reduced in _BY_NAME.items():
                if isinstance(obj, kind):
                    return reduced(obj)
            return super().reducer_override(obj)

    parcel = io.BytesIO()
    Packer(parcel).dump({name: getattr(session, name) for name in _PARTS})
    return parcel.getvalue()


def unpacked(parcel: bytes) -> RunSession:
    """Return the run of a parcel, as this process sees it.

    Raises:
        FlowError: if the module of the flow cannot be imported here.
        ConfigError: if the configuration cannot be read here.
    """
    return RunSession(**pickle.loads(parcel))  # noqa: S301 - packed by the process that began the run


# --- flows and tasks ------------------------------------------------------------------------------------------------


def _reduced_flow(flow: Flow) -> tuple[Any, ...]:
    module = flow.namespace.get("__name__")
    variables = _variables(module)
    name = next((name for name, value in variables.items() if value is flow), None)
    # Arguments may have been changed since the flow was defined; there they would be what they were.
    if name is not None and compile_plan(flow).fingerprint == flow.plan().fingerprint:
        return _import, (module, name, flow.name)
    state = dict(vars(flow)) | {"namespace": {"__name__": module, **_classes(flow.namespace)}}
    state.pop("classes", None)
    return __newobj__, (Flow,), state


def _reduced_task(task: UnboundTask) -> tuple[Any, ...]:
    module, name = getattr(task.fn, "__module__", None), getattr(task.fn, "__qualname__", "")
    if _variables(module).get(name) is task:
        return _import, (module, name, None)
    return __newobj__, (UnboundTask,), dict(vars(task))


def _reduced_item(item: TaskGetItem) -> tuple[Any, ...]:
    return TaskGetItem, (item.task, item.keys)


def _variables(module: str | None) -> Mapping[str, Any]:
    """Return the global variables of a module that other processes can import by its name."""
    found = sys.modules.get(module) if module not in (None, "__main__", "__mp_main__") else None
    return dict(vars(found)) if found is not None and getattr(found, "__spec__", None) is not None else {}


def _classes(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the values of a flow may be made of."""
    return {
        name: value
        for name, value in namespace.items()
        if isinstance(value, type) and (issubclass(value, enum.Enum) or dataclasses.is_dataclass(value))
    }


def _import(module: str, name: str, flow: str | None) -> Any:
    try:
        return getattr(import_module(module), name)
    except Exception as error:
        what = "A task" if flow is None else f"Flow {flow!r}"
        raise FlowError(
            f"{what} is the variable {name!r} of module {module!r}, which cannot be had in a process that is to take "
            f"part in the run ({type(error).__name__}: {error}). Workers need the code of the flow: install it there, "
            "or put its folder on their PYTHONPATH."
        ) from error


# --- the configuration ----------------------------------------------------------------------------------------------


def _reduced_context(config: ConfigContext) -> tuple[Any, ...]:
    if Path(config.source).is_file():
        place = (str(Path(config.source).absolute()), config.instance_name, config.flow_name)
        read = _read(*place, {})
        values = {
            str(field.alias): getattr(config, field.name)
            for field in attrs.fields(ConfigContext)
            if field.name not in _SECTIONS and getattr(config, field.name) != getattr(read, field.name)
        }
        if read.evolve(**values) == config:
            return _read, (*place, values)
    _refuse_secrets(config.config_dict, config.source)
    return _evolved, (ConfigContext, {str(field.alias): getattr(config, field.name) for field in _fields_to_copy()})


def _reduced_config(config: PipedagConfig) -> tuple[Any, ...]:
    if config.path is not None:
        return PipedagConfig, (config.path.absolute(),)
    _refuse_secrets(config.raw_config, "dictionary")
    return PipedagConfig, (config.raw_config,)


def _fields_to_copy() -> list[Any]:
    return [field for field in attrs.fields(ConfigContext) if field.name != "_live"]


def _refuse_secrets(section: Mapping[str, Any], source: str) -> None:
    if Secrets.of(section).texts:
        raise ConfigError(
            f"The configuration ({source}) holds a password and cannot be read again from a file as it is, so it is "
            "not sent to other processes. Write it in pipedag.yaml, with {$NAME} for the password and the variable in "
            "the environment of the workers; or run with SequentialEngine."
        )


def _read(path: str, instance: str, flow: str | None, values: Mapping[str, Any]) -> ConfigContext:
    named = None if instance == "__any__" else instance
    return PipedagConfig(path).get(instance=named, flow=flow).evolve(**values)


def _evolved(kind: type[ConfigContext], values: Mapping[str, Any]) -> ConfigContext:
    return kind(**values)


_BY_NAME: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    Flow: _reduced_flow,
    UnboundTask: _reduced_task,
    TaskGetItem: _reduced_item,
    ConfigContext: _reduced_context,
    PipedagConfig: _reduced_config,
}
