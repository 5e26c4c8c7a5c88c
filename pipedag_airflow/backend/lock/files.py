"""Names and writes on a file system that several processes, users and hosts may share."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import stat
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote

from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["InstanceContext", "construct", "file_name", "instance_folder", "replace_file", "shared_mode", "sync_folder"]

T = TypeVar("T")

# File systems allow 255 bytes; what we add (".g<number>.pkl", the affixes of temporary files) stays below 100.
_LONGEST = 150


class InstanceContext(Protocol):
    """The part of a ``ConfigContext`` that a lock manager or blob store needs."""

    @property
    def instance_id(self) -> str:
        """The id that separates the data of instances."""

    @property
    def table_store(self) -> Any:
        """The table store."""


def construct(cls: Callable[..., T], section: str, args: Mapping[str, Any]) -> T:
    """Call a class with the ``args`` of its section in pipedag.yaml.

    Args:
        cls: The class.
        section: Where the arguments stand, for the message: ``"lock_manager"``.
        args: The arguments.

    Returns:
        The instance.

    Raises:
        ConfigError: When an argument is missing or unknown.
    """
    signature = inspect.signature(cls)
    try:
        signature.bind(**args)
    except TypeError as error:
        known = ", ".join(signature.parameters) or "none"
        msg = (
            f"{section}.args of pipedag.yaml do not fit {getattr(cls, '__name__', cls)}: {error}. "
            f"Given: {', '.join(args) or 'none'}; known: {known}."
        )
        raise ConfigError(msg) from error
    return cls(**args)


def instance_folder(instance_id: str) -> str:
    """The folder of an instance below a ``base_path`` that several instances share.

    Args:
        instance_id: The id as configured.

    Returns:
        The id in lower case, without outer blanks, with ``/`` as ``_``.

    Raises:
        ConfigError: When nothing is left that could be a folder.
    """
    folder = instance_id.casefold().strip().replace("/", "_")
    if folder in {"", ".", ".."} or "\0" in folder:
        msg = f"instance_id {instance_id!r} cannot be the name of a folder below base_path; choose letters and digits."
        raise ConfigError(msg)
    return folder


def file_name(name: str, *, safe: str = "") -> str:
    """A file name for any name: case kept, no separators, no leading dot, bounded length.

    Args:
        name: Any text.
        safe: Characters to keep besides letters, digits and ``_.-~``.

    Returns:
        The name with other characters as ``%XX``. A name that is too long ends in ``%~`` and a hash, which no short
        name can have.
    """
    quoted = quote(name, safe=safe, errors="surrogatepass")
    if quoted.startswith("."):
        quoted = "%2E" + quoted[1:]  # neither "." and ".." nor hidden files
    if len(quoted) > _LONGEST:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        quoted = f"{quoted[: _LONGEST - 34]}%~{digest[:32]}"
    return quoted or "%"


def shared_mode(folder: Path) -> int:
    """The mode of a file that everybody who may write to a folder must be able to open.

    A run of one user has to see the locks of another user's run. Who may take part was decided by whoever set the mode
    of the folder. A sticky folder (``/tmp``) was meant for strangers, so there the files stay with their owner.

    Args:
        folder: The folder that will hold the file.

    Returns:
        Permission bits: read and write for the owner, and what the folder gives to group and others.
    """
    mode = folder.stat().st_mode
    return 0o600 if mode & stat.S_ISVTX else 0o600 | (mode & 0o066)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder survive a power cut.

    Args:
        folder: The folder.
    """
    if os.name == "nt":
        return  # a folder cannot be opened there, and NTFS journals names
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot; they have synced already
        pass
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Replace the content of a file in one step; the caller holds the lock that makes it the only writer.

    A power cut leaves the old content or the new, and either will do: no process of before lives on.

    Args:
        path: The file; its folder exists.
        data: The new content.
    """
    temporary = path.with_name(path.name + ".tmp")
    # One writer at a time, so the name can be fixed: a writer that was killed leaves one file, and the next clears it.
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    mode = shared_mode(path.parent)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, mode)  # the umask must not lock out the other users of the folder
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
