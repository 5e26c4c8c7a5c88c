"""What people get to see of the arguments of a task: enough to tell what changed, and no secrets.

The identity of an argument is hashed as it is. Beside the hash the metadata keep a text of it, which also stands in the
reason of a run, and so in logs and in XCom.
"""

from __future__ import annotations

import json
from typing import Any

from pipedag_airflow.config.known_secrets import without_secrets
from pipedag_airflow.config.redacting import is_secret_name
from pipedag_airflow.core.fingerprint import fingerprint

__all__ = ["shown_identity"]

_SHOWN = 120


def shown_identity(name: str, identity: str, length: int = _SHOWN) -> str:
    """Return what is shown of an argument; any change of it shows.

    What is called like a secret (``password``, ``api_key``, ``token``, ...), as an argument or inside of one, is shown
    as a hash. Secrets that this process knows are stars wherever they occur. Of a long text the beginning is shown.

    Args:
        name: The parameter.
        identity: The identity of the argument as JSON text.
        length: How much of a long text is shown.
    """
    shown = without_secrets(json.dumps(_by_name(name, json.loads(identity)), separators=(",", ":")))
    if shown == identity and len(shown) <= length:
        return identity
    beginning = shown if len(shown) <= length else f"{shown[:length]}…"
    return f"{beginning} #{fingerprint(identity)}"


def _by_name(name: str, value: Any) -> Any:
    """Replace texts that are called like a secret; a name holds for all items of a list."""
    if isinstance(value, list):
        return [_by_name(name, item) for item in value]
    if isinstance(value, dict):
        return _tagged(name, value) if "$" in value else {key: _by_name(key, value[key]) for key in value}
    return "***" if isinstance(value, str) and is_secret_name(name) else value


def _tagged(name: str, value: dict[str, Any]) -> dict[str, Any]:
    """What is no plain JSON has its content under ``v``; the key of a table or blob is a hash, and no secret."""
    if value["$"] == "dict":
        return value | {"v": [[key, _by_name(str(key), item)] for key, item in value["v"]]}
    return value | {"v": _by_name(name, value["v"])} if "v" in value else value
