"""What is kept of an exception in the metadata."""

from __future__ import annotations

from pipedag_airflow.config.known_secrets import without_secrets

__all__ = ["failure_text"]

_LENGTH = 2000


def failure_text(error: BaseException) -> str:
    """Return the class and message of an exception, without secrets and not at any length."""
    return without_secrets(f"{type(error).__name__}: {error}")[:_LENGTH]
