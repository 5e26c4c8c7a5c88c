"""What tells a function from another one of its name: its own code, without what that uses from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.cache.auto_version.bytecode import read_code
from pipedag_airflow.cache.auto_version.homes import Homes
from pipedag_airflow.cache.auto_version.values import Describer
from pipedag_airflow.core.fingerprint import fingerprint

if TYPE_CHECKING:
    import types

__all__ = ["own_code"]


def own_code(function: Any, input_type: Any = None) -> str:
    """Return what stands for a function's bytecode, its constants and defaults and the values in its closure.

    Functions and classes among these count in the same way. Neither the values of global names nor the versions of
    packages do, and nothing is imported.

    Args:
        function: The function.
        input_type: The type in which it gets its tables.

    Raises:
        AutoVersionError: if one of the values cannot be described.
    """
    describer = _OwnCode("The task", _Packages.around(function))
    root = [describer.describe(function, "function"), describer.describe(input_type, "input_type")]
    describer.drain()
    texts = sorted((label, part.text) for label, part in describer.parts.items())
    return fingerprint("\n".join(root), *(text for item in texts for text in item))


class _OwnCode(Describer):
    """Describes functions without following the names in them."""

    def code_text(self, code: types.CodeType, namespace: dict[str, Any], user: str) -> str:
        del namespace, user
        return read_code(code).text


@attrs.frozen
class _Packages(Homes):
    """Tells to which installed package code belongs, whatever its version."""

    def of_module(self, module: types.ModuleType) -> str | None:
        home = super().of_module(module)
        return None if home is None else module.__name__.partition(".")[0]
