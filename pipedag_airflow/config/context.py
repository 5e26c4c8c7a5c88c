"""What one instance of a pipeline is configured to be: :class:`ConfigContext`."""

from __future__ import annotations

from contextvars import ContextVar
from enum import Enum
from typing import TYPE_CHECKING, Any, Self

from attrs import evolve, field, fields_dict, frozen

from pipedag_airflow.config.cache_validation import CacheValidationMode, combined_mode
from pipedag_airflow.config.objects import LiveObjects, create_object
from pipedag_airflow.config.redacting import identity_without_secrets
from pipedag_airflow.config.schema import DEFAULTS
from pipedag_airflow.core.values import ArgumentOnly

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from box import Box

_entered: ContextVar[tuple[ConfigContext, ...]] = ContextVar("pipedag_airflow_config_contexts", default=())

# Changing these leaves stores and locks as they are, so both contexts may use the same objects.
_RUN_OPTIONS = frozenset(
    {
        "fail_fast",
        "strict_result_get_locking",
        "ignore_task_version",
        "ignore_cache_function",
        "cache_validation_mode",
        "swallow_exceptions",
        "force_task_execution",
    }
)


class StageCommitTechnique(Enum):
    """How a finished stage becomes visible to readers."""

    SCHEMA_SWAP = "schema_swap"
    READ_VIEWS = "read_views"


def _frozen_box(value: Mapping[str, Any]) -> Box:
    from box import Box  # whoever only imports the package should not wait for it

    return Box(value, frozen_box=True)


@frozen
class ConfigContext(ArgumentOnly):
    """The configuration of one instance, for one flow; :meth:`PipedagConfig.get` makes it.

    It can be entered with ``with``, also several times and inside of another; :meth:`get` gives the innermost one. It
    can be pickled; the copy builds its own stores when they are needed. Its repr shows no value that may be a secret.

    Attributes:
        config_dict: The merged section, placeholders expanded.
        pipedag_name: The name of the configuration.
        flow_name: The flow for which the configuration was read.
        instance_name: The instance for which it was read; ``__any__`` if no instance was named.
        fail_fast: Whether the first failure ends the run.
        strict_result_get_locking: Whether reading results needs a lock on their stages.
        ignore_task_version: Whether tasks are executed even though their version is unchanged.
        instance_id: The namespace of everything that is stored.
        stage_commit_technique: How a finished stage becomes visible.
        network_interface: The address on which helpers of a run may listen.
        kroki_url: A Kroki server for pictures of a flow; none is ever contacted unless one is named here.
        attrs: The section ``attrs``, free for the user.
        table_hook_args: The section ``table_store.hook_args``.
        ignore_cache_function: Whether the values of cache functions are ignored; see :attr:`effective_mode`.
        swallow_exceptions: Whether a failed run returns a result also with ``fail_fast``, which ends it at the error.
        force_task_execution: Whether tasks are executed even though their results are valid; see
            :attr:`effective_mode`.
        generations_to_keep: How many generations of a stage are kept in the history.
        lease_seconds: How long a stage stays reserved after the last sign of life of its run.
        wait_seconds: How long a run waits for a stage that another one holds, before it fails; 0 is for ever.
        begin_query_seconds: How long the begin of a stage may evaluate the cache function, lazy query or AUTO_VERSION
            code of one task; 0 is never: then the task's own step does.
        dependents: What becomes of views that others have built on the tables of a stage when these are replaced:
            with "repoint" they read the new ones, with "fail" the stage is not published.
        commit_wait_seconds: How long a publish waits for readers who hold tables that it replaces.
        commit_consistency: What follows when these seconds are over: with "strict" the publish fails, with "available"
            it goes on where it can, and a reader who has begun may see tables of both generations in turn.
        airflow: The section ``airflow``, placeholders not expanded.
        source: The file from which the configuration comes, or "embedded default".
        auto_table: Classes whose instances are stored as tables without being wrapped.
        auto_blob: Classes whose instances are stored as blobs without being wrapped.
        cache_validation_mode: Which stored results are taken as valid.
    """

    config_dict: dict[str, Any] = field(repr=False, hash=False)
    pipedag_name: str
    flow_name: str | None
    instance_name: str
    fail_fast: bool
    strict_result_get_locking: bool
    ignore_task_version: bool
    instance_id: str
    stage_commit_technique: StageCommitTechnique
    network_interface: str
    kroki_url: str | None = field(repr=False)
    # Free-form data may hold passwords, and cannot be hashed.
    attrs: Box = field(converter=_frozen_box, repr=False, hash=False)
    table_hook_args: Box = field(converter=_frozen_box, repr=False, hash=False)
    ignore_cache_function: bool = False
    swallow_exceptions: bool = False
    force_task_execution: bool = False
    generations_to_keep: int = DEFAULTS["generations_to_keep"]
    lease_seconds: float = DEFAULTS["lease_seconds"]
    wait_seconds: float = DEFAULTS["wait_seconds"]
    begin_query_seconds: float = DEFAULTS["begin_query_seconds"]
    dependents: str = DEFAULTS["dependents"]
    commit_wait_seconds: float = DEFAULTS["commit_wait_seconds"]
    commit_consistency: str = DEFAULTS["commit_consistency"]
    airflow: Box = field(factory=lambda: _frozen_box({}), converter=_frozen_box, repr=False, hash=False)
    source: str = "dictionary"
    auto_table: tuple[str, ...] = field(default=(), converter=tuple)
    auto_blob: tuple[str, ...] = field(default=(), converter=tuple)
    cache_validation_mode: CacheValidationMode = CacheValidationMode.NORMAL
    _live: LiveObjects = field(factory=LiveObjects, repr=False, eq=False)

    def evolve(self, **changes: Any) -> Self:
        """Make a copy with changes.

        A copy in which only options of a run differ, such as ``fail_fast``, shares stores and locks with the original;
        any other copy builds its own.

        Args:
            **changes: New values of attributes.

        Returns:
            The copy.

        Raises:
            TypeError: If there is no such attribute.
        """
        unknown = changes.keys() - fields_dict(ConfigContext).keys()
        if unknown:
            raise TypeError(f"ConfigContext has no attribute {', '.join(sorted(unknown))}.")
        live = self._live if changes.keys() <= _RUN_OPTIONS else LiveObjects()
        return evolve(self, live=live, **changes)

    @property
    def effective_mode(self) -> CacheValidationMode:
        """The mode that ``cache_validation_mode`` and the two switches mean together.

        ``ignore_cache_function`` is the same as ``IGNORE_FRESH_INPUT``, ``force_task_execution`` the same as
        ``FORCE_CACHE_INVALID``.

        Raises:
            ConfigError: If they contradict each other.
        """
        return combined_mode(
            self.cache_validation_mode,
            ignore_cache_function=self.ignore_cache_function,
            force_task_execution=self.force_task_execution,
            place=f"{self.source} (instance {self.instance_name!r})",
        )

    @classmethod
    def get(cls) -> ConfigContext:
        """Give the innermost context that was entered.

        Returns:
            The context.

        Raises:
            LookupError: If none was entered.
        """
        stack = _entered.get()
        if not stack:
            raise LookupError("No ConfigContext is open. Use 'with PipedagConfig.default.get():' around this call.")
        return stack[-1]

    def __enter__(self) -> Self:
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _entered.set(_entered.get()[:-1])

    def identity(self) -> dict[str, Any]:
        """Return what makes a task run again that has the context as its argument: names, instance id and ``attrs``.

        Where the instance's data are stored does not count: the same data may be reached in several ways.
        """
        names = {"name": self.pipedag_name, "flow": self.flow_name, "instance": self.instance_name}
        return {**names, "instance_id": self.instance_id, "attrs": identity_without_secrets(self.attrs.to_dict())}

    @property
    def table_store(self) -> Any:
        """The table store, built when it is first used."""
        return self._live.get("table_store", lambda: self.create_object("table_store"))

    @property
    def local_table_cache(self) -> Any:
        """The local table cache of the table store, built when it is first used; None if there is none configured."""
        if not self.config_dict.get("table_store", {}).get("local_table_cache"):
            return None
        path = "table_store.local_table_cache"
        return self._live.get(path, lambda: self.create_object(path))

    @property
    def blob_store(self) -> Any:
        """The blob store, built when it is first used."""
        return self._live.get("blob_store", lambda: self.create_object("blob_store"))

    @property
    def lock_manager(self) -> Any:
        """The lock manager, built when it is first used."""
        return self._live.get("lock_manager", self.create_lock_manager)

    def create_lock_manager(self) -> Any:
        """Build another lock manager.

        Returns:
            A new object; its locks are not those of :attr:`lock_manager`.
        """
        return self.create_object("lock_manager")

    def create_orchestration_engine(self) -> Any:
        """Build the engine that runs flows.

        Returns:
            A new object of the class ``orchestration.class``.
        """
        return self.create_object("orchestration")

    def create_object(self, path: str) -> Any:
        """Build what a part of the configuration describes by ``class`` and ``args``.

        A class with a class method ``from_config`` is built by ``from_config(context, **args)``, any other by
        ``cls(**args)``.

        Args:
            path: The dotted path of the part.

        Returns:
            A new object.

        Raises:
            ConfigError: If the class is missing, cannot be imported, or cannot be built from its arguments.
        """
        return create_object(self, path)
