"""The constant that asks for a version made from the task's code."""

from __future__ import annotations

from typing import Final

__all__ = ["AUTO_VERSION", "AutoVersion"]


class AutoVersion:
    """The type of :data:`AUTO_VERSION`, of which there is one object in a process."""

    def __repr__(self) -> str:
        return "AUTO_VERSION"

    def __reduce__(self) -> str:
        # By name: what is unpickled or copied is the constant itself.
        return "AUTO_VERSION"


#: ``@materialize(version=AUTO_VERSION)``: the task runs again when its code, or code that it uses, changes.
AUTO_VERSION: Final = AutoVersion()
