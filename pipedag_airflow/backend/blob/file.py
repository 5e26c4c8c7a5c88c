"""Blobs as signed pickle files in a folder."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from pipedag_airflow.backend.blob.base import CHECK_STAGE, BlobStore
from pipedag_airflow.backend.blob.key import fernet_signing_keys, find_key
from pipedag_airflow.backend.blob.signed import Content, SigningFile, dump, parse, unpickle
from pipedag_airflow.backend.lock.files import construct, file_name, instance_folder, sync_folder
from pipedag_airflow.errors import BlobSignatureError, CacheError, ConfigError, StoreError, UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Collection

    from pipedag_airflow.backend.lock.files import InstanceContext
    from pipedag_airflow.config.connections import Connection

__all__ = ["FileBlobStore"]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_GENERATION = re.compile(r"\.g(?P<number>[0-9a-z]+)$", re.IGNORECASE)
_SUFFIX = ".pkl"
# A write that takes longer is no write any more: its process was killed.
_LEFTOVER_SECONDS = 24 * 3600


class FileBlobStore(BlobStore):
    """Pickles objects into ``base_path/STAGE/NAME.g<generation>.pkl`` and signs the files.

    Unpickling runs code that the file names, so a file is only unpickled when its signature shows that it was written
    with our key, for this very location. The key comes from ``key``, else the environment variable
    ``PIPEDAG_BLOB_KEY``, else ``key_file``, else ``base_path/.blob_key``, which is made on first use. In pipedag.yaml,
    ``conn_id`` names an Airflow connection whose password is the key.

    ``base_path/STAGE/NAME.pkl`` is a link to the published file, for people; ``pickle.load`` reads it.

    Args:
        base_path: The folder; all workers must see it. From pipedag.yaml the instance id is appended to it.
        key: The key that signs.
        key_file: A file with the key, mode 0600.
        trust_unsigned: Also load files without a signature, for stores that were filled by something else.
        fernet_key: Sign with a key that follows from Airflow's Fernet key, and with no other. Files that were signed
            with a retired one of Airflow's are read for as long as it is listed behind the new one.

    Raises:
        ConfigError: When there is another key besides the Fernet key.
    """

    def __init__(
        self,
        base_path: str | Path,
        key: str | None = None,
        key_file: str | Path | None = None,
        trust_unsigned: bool = False,
        fernet_key: bool = False,
    ) -> None:
        if fernet_key and (key is not None or key_file is not None):
            other = "key or conn_id" if key is not None else "key_file"
            msg = f"blob_store.args has fernet_key: true, but {other}, too. Remove one of the two."
            raise ConfigError(msg)
        # Absolute now: a task may change the working folder later.
        self.base_path = Path(base_path).expanduser().absolute()
        self.trust_unsigned = trust_unsigned
        self._given_key = key
        self._key_file = None if key_file is None else Path(key_file).expanduser().absolute()
        self._fernet_key = fernet_key
        self._found_keys: tuple[bytes, ...] | None = None
        self._swept: set[Path] = set()

    @classmethod
    def from_config(cls, context: InstanceContext, **args: Any) -> Self:
        """Make the blob store that pipedag.yaml describes.

        Args:
            context: The configuration of the instance; its id is appended to ``base_path``.
            **args: ``blob_store.args``.

        Returns:
            The store.
        """
        if "base_path" in args:
            args["base_path"] = Path(args["base_path"]) / instance_folder(context.instance_id)
        return construct(cls, "blob_store", args)

    @classmethod
    def connection_args(cls, connection: Connection) -> dict[str, Any]:
        """Return what an Airflow connection stands for: its password is the key.

        Args:
            connection: The connection.

        Raises:
            ConfigError: When it has no password.
        """
        if not connection.password:
            msg = f"the connection {connection.conn_id!r} has no password; the key that signs blobs belongs there"
            raise ConfigError(msg)
        return {"key": connection.password}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.base_path)!r})"  # never the key

    def _keys(self) -> tuple[bytes, ...]:
        """The key that signs, and behind it those that signed before."""
        if self._found_keys is None:
            self._found_keys = (
                fernet_signing_keys()
                if self._fernet_key
                else (find_key(self.base_path, self._given_key, self._key_file),)
            )
        return self._found_keys

    def _is_signed(self, content: Content) -> bool:
        return any(content.is_signed_by(key) for key in self._keys())

    def check(self) -> str:
        """Try the store; see ``BlobStore``. The folder and its key are made as on first use."""
        tried = super().check()
        with contextlib.suppress(OSError):  # another check may be at it
            (self.base_path / CHECK_STAGE).rmdir()
        return tried

    def write(self, obj: Any, *, stage: str, name: str, generation: int) -> str:
        """Store an object; see ``BlobStore``."""
        location = _location(stage, name, generation)
        path = self.base_path / location
        key = self._keys()[0]
        temporary = _temporary(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    signing = SigningFile(file, key)
                    self._dump(obj, signing, stage, name)
                    signing.finish(location)
                    file.flush()
                    os.fsync(descriptor)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(path.parent)
            self._sweep(path.parent)
        except OSError as error:
            msg = f"Blob {name!r} of stage {stage!r} cannot be written to {path}: {error}. Nothing was stored."
            raise StoreError(msg) from error
        return location

    def _dump(self, obj: Any, file: SigningFile, stage: str, name: str) -> None:
        try:
            dump(obj, file)
        except OSError:
            raise  # the disk, not the object
        except Exception as error:
            kind = f"{type(obj).__module__}.{type(obj).__qualname__}"
            msg = (
                f"Blob {name!r} of stage {stage!r} holds a {kind}, which cannot be pickled: {error}. Return plain "
                f"data, or give the class __getstate__ and __setstate__; functions and classes must be defined at the "
                f"top level of a module that can be imported."
            )
            raise UnsupportedValueError(msg) from error

    def _sweep(self, folder: Path) -> None:
        # Once per process is enough: only processes that were killed leave something.
        if folder in self._swept:
            return
        self._swept.add(folder)
        oldest = time.time() - _LEFTOVER_SECONDS
        for path in folder.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < oldest:
                    path.unlink()

    def read(self, location: str) -> Any:
        """Load an object; see ``BlobStore``."""
        path = self._path(location)
        content = self._checked(path, location)
        try:
            return unpickle(content)
        except Exception as error:
            msg = (
                f"The blob {location!r} cannot be unpickled from {path}: {type(error).__name__}: {error}. The classes "
                f"of its objects must be importable, under the same name, wherever it is read; a class that is defined "
                f"in the file of a flow is not, under Airflow: move it to a module of its own. If the class is gone, "
                f"run the task that makes the blob again."
            )
            raise StoreError(msg) from error

    def _checked(self, path: Path, location: str) -> Content:
        try:
            # Read once and whole: what is unpickled is what was checked, whatever happens to the file meanwhile.
            content = parse(path.read_bytes())
        except FileNotFoundError as error:
            msg = (
                f"There is no blob file {path}. Somebody deleted it, or this worker does not see the folder that it "
                f"was written to. Run the task that makes it again, with its cache ignored."
            )
            raise CacheError(msg) from error
        except OSError as error:
            msg = f"The blob file {path} cannot be read: {error}."
            raise StoreError(msg) from error
        if content.location is None:
            if self.trust_unsigned:
                return content
            msg = (
                f"The blob file {path} has no signature; loading it could run somebody else's code, so it was not "
                f"loaded. If it is an old file that you trust, set blob_store.args.trust_unsigned: true; otherwise run "
                f"the task that makes it again."
            )
            raise BlobSignatureError(msg)
        if not self._is_signed(content):
            msg = (
                f"The signature of the blob file {path} is wrong: the file was altered or cut off, or was written with "
                f"another key (of blob_store.args: key, conn_id, key_file or fernet_key; PIPEDAG_BLOB_KEY; or "
                f"{self.base_path / '.blob_key'}). It was not loaded. Give this worker the key of the writer, or run "
                f"the task that makes the blob again."
            )
            raise BlobSignatureError(msg)
        if content.location != location:
            msg = (
                f"The blob file {path} was signed as {content.location!r}, not as {location!r}: somebody exchanged or "
                f"copied files. It was not loaded. Run the task that makes the blob again."
            )
            raise BlobSignatureError(msg)
        return content

    def exists(self, location: str) -> bool:
        """Whether there is a file, without loading it."""
        return self._path(location).is_file()

    def size(self, location: str) -> int | None:
        """The bytes of a file; see ``BlobStore``."""
        try:
            return self._path(location).stat().st_size
        except OSError:
            return None

    def link(self, *, stage: str, name: str, location: str) -> None:
        """Refresh ``base_path/STAGE/NAME.pkl``; see ``BlobStore``."""
        target = self._path(location)
        path = self._documented(stage, name)
        if not target.is_file():
            msg = f"Blob {name!r} of stage {stage!r} cannot be shown at {path}: there is no file {target}."
            raise CacheError(msg)
        if os.path.lexists(path) and not self._is_ours(path):
            msg = (
                f"{path} was not made by this store, so it is left alone. The blob is safe in {target}; move the other "
                f"file away, and the next publish puts a link there."
            )
            raise StoreError(msg)
        temporary = _temporary(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                try:
                    temporary.symlink_to(os.path.relpath(target, path.parent))
                except OSError:  # no symbolic links on this file system or for this user
                    shutil.copyfile(target, temporary)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            msg = f"Blob {name!r} of stage {stage!r} cannot be shown at {path}: {error}. The blob is safe in {target}."
            raise StoreError(msg) from error

    def others(self, stage: str, known: Collection[str]) -> dict[str, int]:
        """Find the files that are signed for the place where they are; see ``BlobStore``."""
        folder = self.base_path / _stage_folder(stage)
        generations = {
            f"{folder.name}/{path.name}": _GENERATION.search(path.name.removesuffix(_SUFFIX))
            for path in folder.glob(f"*{_SUFFIX}")
        }
        return {
            location: int(generation["number"], 36)
            for location, generation in generations.items()
            if generation is not None and location not in known and self._is_written_by_us(location)
        }

    def _is_written_by_us(self, location: str) -> bool:
        try:
            content = parse(self._path(location).read_bytes())
        except (OSError, StoreError):
            return False
        return content.location == location and self._is_signed(content)

    def unlink(self, *, stage: str, name: str) -> None:
        """Remove ``base_path/STAGE/NAME.pkl`` if ``link`` made it."""
        path = self._documented(stage, name)
        if self._is_ours(path):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def drop(self, location: str) -> None:
        """Remove a file."""
        path = self._path(location)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            msg = f"The blob file {path} cannot be removed: {error}."
            raise StoreError(msg) from error

    def _documented(self, stage: str, name: str) -> Path:
        return self.base_path / _stage_folder(stage) / (_blob_name(name) + _SUFFIX)

    def _is_ours(self, path: Path) -> bool:
        """Whether a path is a link to, or a copy of, a file that carries a generation: only we make these."""
        try:
            if path.is_symlink():
                target = os.path.normpath(path.parent / path.readlink())
                location = os.path.relpath(target, self.base_path).replace(os.sep, "/")
            else:
                content = parse(path.read_bytes())
                location = (content.location or "") if self._is_signed(content) else ""
            self._path(location)
        except (OSError, StoreError):
            return False
        return _GENERATION.search(location.removesuffix(_SUFFIX)) is not None

    def _path(self, location: str) -> Path:
        parts = PurePosixPath(location).parts
        inside = (
            len(parts) == 2
            and "/".join(parts) == location
            and not any(part.startswith(".") or part == "" for part in parts)
            and not any(character in location for character in "\\:\0")
            and location.endswith(_SUFFIX)
        )
        if not inside:
            msg = (
                f"{location!r} is no location of a blob in {self.base_path}: expected STAGE/NAME.g<generation>.pkl. "
                f"The metadata that name it were altered or belong to another store."
            )
            raise StoreError(msg)
        return self.base_path / location


def _stage_folder(stage: str) -> str:
    return file_name(stage, safe=" ")


def _blob_name(name: str) -> str:
    # "x.g3" must not be shown at "x.g3.pkl", which is where generation 3 of "x" lives.
    quoted = file_name(name, safe=" ")
    generation = _GENERATION.search(quoted)
    return quoted if generation is None else f"{quoted[: generation.start()]}%2E{quoted[generation.start() + 1 :]}"


def _location(stage: str, name: str, generation: int) -> str:
    return f"{_stage_folder(stage)}/{_blob_name(name)}.g{_base36(generation)}{_SUFFIX}"


def _base36(number: int) -> str:
    if number < 0:
        msg = f"A generation is never negative: {number}."
        raise ValueError(msg)
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
        if number == 0:
            return digits


def _temporary(path: Path) -> Path:
    # Short, because a name of the longest kind has no room for more; hidden, and unlike any location.
    return path.with_name(f".{path.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
