"""The key that signs blobs: where it comes from, and a file for it that nobody else can read."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import stat
from typing import TYPE_CHECKING

from pipedag_airflow.backend.lock.files import sync_folder
from pipedag_airflow.config.connections import find_fernet_keys
from pipedag_airflow.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ENVIRONMENT_KEY", "KEY_FILE", "fernet_signing_keys", "find_key"]

ENVIRONMENT_KEY = "PIPEDAG_BLOB_KEY"
KEY_FILE = ".blob_key"
_LONGEST = 4096
#: What keeps a signature of ours from being one of Airflow's, and the other way round.
_PURPOSE = b"pipedag-airflow: blobs"


def find_key(base_path: Path, key: str | None, key_file: Path | None) -> bytes:
    """Give the key: the argument, else the environment, else the key file, else one made in ``base_path``.

    Args:
        base_path: The folder of the store.
        key: The key as configured.
        key_file: The key file as configured.

    Returns:
        The key.

    Raises:
        StoreError: When a source that was named gives no key, or others can read the file.
    """
    if key is not None:
        return _checked(key.encode(), "blob_store.args.key")
    environment = os.environ.get(ENVIRONMENT_KEY)
    if environment is not None:
        return _checked(environment.encode(), f"the environment variable {ENVIRONMENT_KEY}")
    if key_file is not None:
        try:
            return _read(key_file)
        except FileNotFoundError as error:
            # Not made here: another worker, with another file system, would make another key.
            msg = (
                f"The key file {key_file} of blob_store.args.key_file does not exist. Copy it from where the blobs "
                f"were written, or for a new store: (umask 077; openssl rand -hex 32 > {key_file})."
            )
            raise StoreError(msg) from error
    own = base_path / KEY_FILE
    try:
        return _read(own)
    except FileNotFoundError:
        _make(own)
    return _read(own)


def fernet_signing_keys() -> tuple[bytes, ...]:
    """Give the keys that follow from Airflow's Fernet keys: the one that signs first, then those that are retired.

    Returns:
        One key for each of Airflow's.

    Raises:
        StoreError: When this process knows no Fernet key.
    """
    keys = find_fernet_keys()
    if not keys:
        msg = (
            "blob_store.args.fernet_key is true, but this process knows no Fernet key of Airflow's, so blobs can be "
            "neither signed nor checked. Set AIRFLOW__CORE__FERNET_KEY for it as for the scheduler, or sign with "
            f"another key: {ENVIRONMENT_KEY}, conn_id or key_file."
        )
        raise StoreError(msg)
    return tuple(hmac.digest(key.encode(), _PURPOSE, "sha256") for key in keys)


def _checked(key: bytes, source: str) -> bytes:
    key = key.strip()
    if not key:
        msg = f"The key that signs blobs is empty in {source}. Set it to a long random text: openssl rand -hex 32."
        raise StoreError(msg)
    return key


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise
    except OSError as error:
        msg = (
            f"The key file {path}, which signs blobs, cannot be read: {error}. It belongs to one user on purpose; "
            f"where several users share a store, give all the same key by {ENVIRONMENT_KEY}."
        )
        raise StoreError(msg) from error
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        # Of the open file, not of the path: the two can differ if somebody exchanges them.
        if os.name != "nt" and mode & 0o077:
            msg = (
                f"The key file {path}, which signs blobs, can be used by others (mode {mode:04o}, at most 0600 is "
                f"allowed): whoever reads it can make files that this user's runs execute. Type: chmod 600 {path}; and "
                f"if strangers have access to this machine, make a new key."
            )
            raise StoreError(msg)
        return _checked(file.read(_LONGEST), str(path))


def _make(path: Path) -> None:
    """Make the key file, complete from its first moment on, unless another process was first."""
    temporary = path.with_name(f"{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _create(temporary)
        try:
            # A link appears with its content and fails when the name is taken: all who race end with one key.
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        except OSError:
            # No hard links here. Another process could read the file while it is empty; that step fails, its retry not.
            with contextlib.suppress(FileExistsError):
                _create(path)
        finally:
            temporary.unlink()
        sync_folder(path.parent)
    except OSError as error:
        msg = (
            f"The key file {path}, which signs blobs, cannot be made: {error}. Give this user write access to "
            f"{path.parent}, or set {ENVIRONMENT_KEY}."
        )
        raise StoreError(msg) from error


def _create(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_hex(32).encode() + b"\n")
        file.flush()
        os.fsync(descriptor)
