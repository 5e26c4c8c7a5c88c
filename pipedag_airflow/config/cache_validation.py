"""What a run takes as valid, as users choose it: :class:`CacheValidationMode`."""

from __future__ import annotations

from enum import StrEnum

from pipedag_airflow.errors import ConfigError

__all__ = ["CacheValidationMode", "combined_mode"]


class CacheValidationMode(StrEnum):
    """Which stored results a run takes as valid: ``cache_validation.mode`` in pipedag.yaml, or of one run.

    Fresh input is what a task with a cache function reads: its cache function says when there is something new.
    """

    #: A result is valid while version, inputs, query and cache function say the same as when it was made.
    NORMAL = "normal"
    #: As ``IGNORE_FRESH_INPUT``, and a task that would read fresh input all the same is an error: a task that has a
    #: cache function and is not valid, for whatever reason. Its function is not called; of a lazy task it is, because
    #: only its queries tell, but nothing is stored.
    ASSERT_NO_FRESH_INPUT = "assert_no_fresh_input"
    #: What cache functions return does not invalidate. What has to run for another reason runs as in ``NORMAL``.
    IGNORE_FRESH_INPUT = "ignore_fresh_input"
    #: Tasks with a cache function run, and whoever reads their tables follows.
    FORCE_FRESH_INPUT = "force_fresh_input"
    #: Everything runs, and every lazy table is made again.
    FORCE_CACHE_INVALID = "force_cache_invalid"


def combined_mode(
    mode: CacheValidationMode, *, ignore_cache_function: bool, force_task_execution: bool, place: str
) -> CacheValidationMode:
    """Return the one mode that a mode and the older switches mean together.

    Args:
        mode: The mode; ``NORMAL`` leaves the word to the switches.
        ignore_cache_function: The same as ``IGNORE_FRESH_INPUT``.
        force_task_execution: The same as ``FORCE_CACHE_INVALID``.
        place: Who says so, for the message.

    Raises:
        ConfigError: if they contradict each other.
    """
    said = {"cache_validation_mode": mode} if mode is not CacheValidationMode.NORMAL else {}
    # To assert that there is no fresh input includes ignoring it.
    if ignore_cache_function and mode is not CacheValidationMode.ASSERT_NO_FRESH_INPUT:
        said["ignore_cache_function"] = CacheValidationMode.IGNORE_FRESH_INPUT
    if force_task_execution:
        said["force_task_execution"] = CacheValidationMode.FORCE_CACHE_INVALID
    if len(set(said.values())) > 1:
        meant = ", ".join(f"{name} means {value.value!r}" for name, value in said.items())
        raise ConfigError(f"{place} contradicts itself: {meant}. Give only one of them.")
    return next(iter(said.values()), CacheValidationMode.NORMAL)
