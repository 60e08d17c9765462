"""Where the archive's bytes lie: a folder or an S3 bucket, behind one small interface.

A store knows keys, bytes and one promise: `Store.create` makes a whole object appear under a key, durably,
exactly once. It never overwrites and never deletes. Commits and tables: `workloads.ticks.archive`.
"""

import base64
import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from workloads.errors import WorkloadError

STAGING = ".staging"
"""Folder of files that are being written, at the root of a folder archive."""

CHUNK = 1 << 20


class ArchiveError(WorkloadError):
    """The archive cannot be read or written; says what, where, what to do next."""


class Store(Protocol):
    """Objects under one URI. Keys are relative, with ``/`` between their parts."""

    uri: str

    def stage(self) -> contextlib.AbstractContextManager[Path]:
        """A local file to write an object to before `create`; it is gone when the context ends."""
        ...

    def create(self, key: str, staged: Path, sha256: str) -> bool:
        """Make the staged file visible as ``key``, whole and durable; False where the key exists already."""
        ...

    def read(self, key: str) -> bytes | None:
        """The content of a small object; None where there is none."""
        ...

    def read_many(self, keys: list[str]) -> list[bytes | None]: ...

    def size(self, key: str) -> int | None:
        """Bytes; None where there is no such object."""
        ...

    def sha256(self, key: str) -> str:
        """Hex digest of an object's content, by reading it."""
        ...

    def folders(self, prefix: str) -> list[str]:
        """Names directly below ``prefix`` that hold something, sorted."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key below ``prefix``, unfinished files of the staging folder included."""
        ...

    def location(self, key: str) -> str:
        """What DuckDB or Polars open: an absolute path or an ``s3://`` URI."""
        ...

    def filesystem(self) -> tuple[Any, str]:
        """A pyarrow file system, and what to put before a key on it."""
        ...


def open_store(uri: str) -> Store:
    """The store that ``uri`` names: a path, ``file:///path`` or ``s3://bucket/prefix``.

    Raises
    ------
    ArchiveError
        If the scheme is another one, or the bucket's name is missing.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise ArchiveError(f"{uri!r} names no bucket; write s3://bucket/prefix")
        return S3Store(parts.netloc, parts.path.strip("/"))
    if parts.scheme == "file":
        return FolderStore(Path(parts.path))
    if "://" in uri:
        raise ArchiveError(f"{uri!r}: unknown scheme {parts.scheme!r}; known: a path, file://, s3://")
    return FolderStore(Path(uri))


class FolderStore:
    """A folder on a POSIX file system with hard links.

    A file appears by ``link`` of a finished, fsynced temporary file, so it is never seen in part and never
    replaced. A temporary file is locked while its writer lives; one without a lock was left by a killed
    process and is removed by the next writer.
    """

    def __init__(self, root: Path):
        self.root = root.resolve()  # `latest` may point elsewhere tomorrow
        self.uri = str(self.root)
        self._swept = False

    @contextlib.contextmanager
    def stage(self) -> Iterator[Path]:
        folder = self.root / STAGING
        path = None
        try:
            with self._explained(folder):
                self._make(folder)
                self._sweep(folder)
                handle, path = self._locked(folder)
            try:
                with self._explained(folder):
                    yield path
            finally:
                os.close(handle)
        finally:
            if path is not None:
                path.unlink(missing_ok=True)

    def create(self, key: str, staged: Path, sha256: str) -> bool:
        target = self.root / key
        with self._explained(target):
            self._make(target.parent)
            _fsync(staged)
            try:
                os.link(staged, target)
            except FileExistsError:
                _fsync(target.parent)  # whoever made it may have died before this
                return False
            _fsync(target.parent)
        return True

    def read(self, key: str) -> bytes | None:
        with self._explained(self.root / key):
            try:
                return (self.root / key).read_bytes()
            except FileNotFoundError:
                return None

    def read_many(self, keys: list[str]) -> list[bytes | None]:
        return [self.read(key) for key in keys]

    def size(self, key: str) -> int | None:
        with self._explained(self.root / key):
            try:
                return (self.root / key).stat().st_size
            except FileNotFoundError:
                return None

    def sha256(self, key: str) -> str:
        with self._explained(self.root / key), (self.root / key).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def folders(self, prefix: str) -> list[str]:
        folder = self.root / prefix
        with self._explained(folder):
            if not folder.exists():
                return []
            return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")

    def keys(self, prefix: str) -> Iterator[str]:
        top = self.root / prefix
        with self._explained(top):
            for folder, _, names in os.walk(top, onerror=_unless_missing):
                for name in sorted(names):
                    yield (Path(folder) / name).relative_to(self.root).as_posix()

    def location(self, key: str) -> str:
        return str(self.root / key)

    def filesystem(self) -> tuple[Any, str]:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), f"{self.root}/"

    def _make(self, folder: Path) -> None:
        """Create the folder and what is missing above it, so that a power cut keeps them."""
        if folder.is_dir():
            return
        self._make(folder.parent)
        folder.mkdir(exist_ok=True)
        _fsync(folder.parent)

    def _locked(self, folder: Path) -> tuple[int, Path]:
        while True:
            handle, name = tempfile.mkstemp(dir=folder)
            path = Path(name)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:  # else a sweep came between creation and lock
                return handle, path
            os.close(handle)

    def _sweep(self, folder: Path) -> None:
        if self._swept:
            return
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                handle = os.open(path, os.O_RDWR)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                finally:
                    os.close(handle)
        self._swept = True

    @contextlib.contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise explain(error, path) from error


def explain(error: OSError, path: Path | str) -> ArchiveError:
    """An operating system's refusal as one sentence that says what to do."""
    remedy = {
        errno.ENOSPC: "free some space, or point the archive to a larger disk, and run it again",
        errno.EDQUOT: "raise the quota, or point the archive elsewhere, and run it again",
        errno.EACCES: "give this user the permission, or point the archive to a folder of its own",
        errno.EPERM: "give this user the permission, or use a file system that has hard links",
        errno.EROFS: "mount it writable, or point the archive to another folder",
        errno.ENOTDIR: "a file stands where a folder is needed: point the archive elsewhere",
        errno.ENOENT: "it was removed behind the log's back: restore it, or see `tickworks ticks verify`",
    }.get(error.errno or 0, "check the disk and run it again")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return ArchiveError(f"{path}: {reason}; {remedy} (nothing is half-committed)")


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class S3Store:
    """A bucket and a prefix. Endpoint, region and credentials come from the usual AWS environment.

    Writes go through boto3, the one client here that sends ``If-None-Match`` with ``ChecksumSHA256``: S3
    itself refuses a second writer and a damaged upload. Tables are read through pyarrow's own S3 client,
    which fetches column ranges in parallel outside the interpreter's lock.
    """

    _CONFLICTS = 5
    """Times that S3 may answer 409 (another conditional write in flight) before we give up."""

    def __init__(self, bucket: str, prefix: str):
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._guard = threading.Lock()
        self._made: Any = None

    @contextlib.contextmanager
    def stage(self) -> Iterator[Path]:
        try:
            handle, name = tempfile.mkstemp(prefix="tickworks-")
        except OSError as error:
            raise explain(error, tempfile.gettempdir()) from error
        os.close(handle)
        try:
            yield Path(name)
        except OSError as error:
            raise explain(error, tempfile.gettempdir()) from error
        finally:
            Path(name).unlink(missing_ok=True)

    def create(self, key: str, staged: Path, sha256: str) -> bool:
        from botocore.exceptions import ClientError

        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        for attempt in range(self._CONFLICTS):
            try:
                with self._explained(key), staged.open("rb") as body:
                    self._client().put_object(
                        Bucket=self.bucket,
                        Key=self.prefix + key,
                        Body=body,
                        ChecksumAlgorithm="SHA256",
                        ChecksumSHA256=checksum,
                        IfNoneMatch="*",
                    )
                return True
            except ArchiveError as error:
                cause = error.__cause__
                code = cause.response["Error"]["Code"] if isinstance(cause, ClientError) else ""
                if code in ("PreconditionFailed", "412"):
                    return False
                if code not in ("ConditionalRequestConflict", "409") or attempt == self._CONFLICTS - 1:
                    raise
                time.sleep(0.05 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def read(self, key: str) -> bytes | None:
        with self._explained(key):
            try:
                answer = self._client().get_object(Bucket=self.bucket, Key=self.prefix + key)
                body: bytes = answer["Body"].read()
            except self._client().exceptions.NoSuchKey:
                return None
        return body

    def read_many(self, keys: list[str]) -> list[bytes | None]:
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(self.read, keys))

    def size(self, key: str) -> int | None:
        from botocore.exceptions import ClientError

        with self._explained(key):
            try:
                return int(
                    self._client().head_object(Bucket=self.bucket, Key=self.prefix + key)["ContentLength"]
                )
            except ClientError as error:
                if error.response["Error"]["Code"] == "404":
                    return None
                raise

    def sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        with self._explained(key):
            answer = self._client().get_object(Bucket=self.bucket, Key=self.prefix + key)
            for chunk in answer["Body"].iter_chunks(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def folders(self, prefix: str) -> list[str]:
        start = self.prefix + (f"{prefix}/" if prefix else "")
        with self._explained(prefix):
            pages = (
                self._client()
                .get_paginator("list_objects_v2")
                .paginate(Bucket=self.bucket, Prefix=start, Delimiter="/")
            )
            found = [
                p["Prefix"][len(start) :].rstrip("/")
                for page in pages
                for p in page.get("CommonPrefixes", ())
            ]
        return sorted(name for name in found if not name.startswith("."))

    def keys(self, prefix: str) -> Iterator[str]:
        start = self.prefix + (f"{prefix}/" if prefix else "")
        with self._explained(prefix):
            pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start)
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield entry["Key"][len(self.prefix) :]

    def location(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{key}"

    def filesystem(self) -> tuple[Any, str]:
        from pyarrow.fs import S3FileSystem

        with self._explained(""):
            meta = self._client().meta
        options: dict[str, Any] = {"region": meta.region_name or "us-east-1"}
        endpoint = urlsplit(meta.endpoint_url)
        if not (endpoint.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")):
            options |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
        return S3FileSystem(**options), f"{self.bucket}/{self.prefix}"

    def _client(self) -> Any:
        with self._guard:
            if self._made is None:
                import boto3
                from botocore.config import Config

                self._made = boto3.client(
                    "s3",
                    config=Config(
                        retries={"mode": "standard", "max_attempts": 5},
                        connect_timeout=10,
                        response_checksum_validation="when_required",  # some servers answer ranges wrongly
                        max_pool_connections=16,
                    ),
                )
            return self._made

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"s3://{self.bucket}/{self.prefix}{key}"
        try:
            yield
        except ClientError as error:
            code = error.response["Error"]["Code"]
            said = error.response["Error"].get("Message", "")
            remedy = {
                "NoSuchBucket": f"create the bucket {self.bucket!r}, or correct the archive's URI",
                "AccessDenied": "give this role s3:ListBucket, s3:GetObject and s3:PutObject there",
                "403": "give this role s3:ListBucket, s3:GetObject and s3:PutObject there",
                "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID or the profile in use",
                "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY or the profile in use",
                "ExpiredToken": "sign in again: the session's credentials have expired",
                "BadDigest": "the upload was damaged on its way: run it again",
                "EntityTooLarge": "one upload holds 5 GiB: write smaller files",
            }.get(code, "check the bucket and run it again")
            raise ArchiveError(f"{where}: {code} {said}; {remedy} (nothing is half-committed)") from error
        except BotoCoreError as error:
            raise ArchiveError(
                f"{where}: {str(error).rstrip('.')}; check AWS_ENDPOINT_URL, the region, and the credentials "
                "of the AWS environment (nothing is half-committed)"
            ) from error
        except OSError as error:
            raise explain(error, where) from error
