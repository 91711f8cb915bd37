# ruff: noqa: D102 -- the methods keep the contract written in interface.py
"""The photo storage in an S3 bucket, or in anything that speaks S3.

``finish`` hands the object to a few threads and returns; ``settle`` waits for them. So a request of a thousand photos
costs a few round trips in a row and not a thousand, and at most ``_PENDING`` photos wait in memory: the next ``finish``
blocks, which slows the client down instead.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from tempfile import SpooledTemporaryFile
from threading import BoundedSemaphore, Lock
from typing import IO, TYPE_CHECKING

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared.errors import ObjectMissing, ObjectTooLarge, StorageAway
from shared.storage.interface import Item, Upload, checked_key, checked_prefix

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

_THREADS = 8
_PENDING = 16
_SPOOL = 8 << 20  # above this a photo waits on disk and goes up in parts
_MISSING = {"NoSuchKey", "404"}
_WHY = {
    "NoSuchBucket": "The bucket of the photo storage does not exist.",
    "AccessDenied": "The photo storage refuses these credentials.",
    "InvalidAccessKeyId": "The photo storage refuses these credentials.",
    "SignatureDoesNotMatch": "The photo storage refuses these credentials.",
    "ExpiredToken": "The credentials for the photo storage have expired.",
    "SlowDown": "The photo storage is overloaded.",
}


class S3Storage:
    """``Storage`` over ``bucket``, every key below ``prefix``; credentials come from where boto3 looks for them."""

    is_near = False

    def __init__(self, bucket: str, prefix: str, *, endpoint: str = "") -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        session = Session()
        self._client = _client(session, endpoint, connect=3, read=20, attempts=2)
        self._probe = _client(session, endpoint, connect=2, read=3, attempts=1)
        # Each upload has a thread of its own already.
        self._transfer = TransferConfig(multipart_threshold=_SPOOL, multipart_chunksize=_SPOOL, use_threads=False)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="s3-upload")
        self._room = BoundedSemaphore(_PENDING)
        self._lock = Lock()
        self._under_way: dict[str, Future[None]] = {}

    def create(self, key: str, *, limit: int) -> Upload:
        return _S3Upload(checked_key(key), limit, self)

    def settle(self, keys: Sequence[str]) -> None:
        with self._lock:
            waiting = [self._under_way[key] for key in dict.fromkeys(keys) if checked_key(key) in self._under_way]
        failures = [error for future in waiting if (error := future.exception())]
        if failures:
            raise StorageAway(str(failures[0])) from failures[0]

    def put(self, key: str, data: bytes) -> None:
        with self.create(key, limit=len(data)) as upload:  # its hash is little beside sending it
            upload.write(data)
            upload.finish()

    def write(self, key: str, data: bytes) -> None:
        with _away():
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + checked_key(key), Body=data)

    def read(self, key: str, *, limit: int) -> bytes:
        with _away():
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + checked_key(key))
            with answer["Body"] as body:
                if answer["ContentLength"] <= limit:
                    return body.read()
        raise ObjectTooLarge(f"The object has more than {limit} bytes.")

    def read_into(self, key: str, room: memoryview) -> int:
        data = self.read(key, limit=len(room))
        room[: len(data)] = data
        return len(data)

    def read_part(self, key: str, *, offset: int, length: int) -> bytes:
        if not length:
            return b""
        wanted = f"bytes={offset}-{offset + length - 1}"
        try:
            with _away():
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + checked_key(key), Range=wanted)
                with answer["Body"] as body:
                    return body.read()
        except StorageAway as error:
            if isinstance(error.__cause__, ClientError) and _code(error.__cause__) == "InvalidRange":
                return b""  # the object ends before
            raise

    def delete(self, keys: Iterable[str]) -> None:
        left = [checked_key(key) for key in keys]
        self._forget(left)
        for start in range(0, len(left), 1000):  # S3 takes no more at once
            objects: list[ObjectIdentifierTypeDef] = [{"Key": self._prefix + key} for key in left[start : start + 1000]]
            with _away():
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
            if errors := answer.get("Errors"):
                code = errors[0].get("Code", "unknown")
                raise StorageAway(f"The photo storage kept {len(errors)} objects that were to be deleted: {code}.")

    def delete_prefix(self, prefix: str) -> None:
        if not prefix:
            raise ValueError("an empty prefix would delete everything")
        self.delete([item.key for item in self.list(prefix)])

    def list(self, prefix: str) -> Iterator[Item]:
        full = self._prefix + checked_prefix(prefix)
        with _away():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=full):
                for found in page.get("Contents", ()):
                    yield Item(found["Key"].removeprefix(self._prefix), found["Size"], found["LastModified"])

    def tidy(self, older: float) -> int:
        before = datetime.now(UTC) - timedelta(seconds=older)
        where, removed = self._bucket, 0
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=where, Prefix=self._prefix)
        with _away():
            for page in pages:
                for dead in page.get("Uploads", ()):
                    if dead["Initiated"] < before:
                        self._client.abort_multipart_upload(Bucket=where, Key=dead["Key"], UploadId=dead["UploadId"])
                        removed += 1
        return removed

    def check(self) -> None:
        with _away():
            self._probe.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    def send(self, key: str, spool: IO[bytes]) -> None:
        """Upload ``spool`` in the background and close it; ``settle`` tells how it went. For the upload alone."""
        self._room.acquire()
        try:
            future = self._pool.submit(self._put, key, spool)
        except BaseException:
            self._room.release()
            raise
        with self._lock:
            self._under_way[key] = future
        future.add_done_callback(lambda done: self._done(key, done))

    def _put(self, key: str, spool: IO[bytes]) -> None:
        with spool, _away():
            spool.seek(0)
            self._client.upload_fileobj(spool, self._bucket, self._prefix + key, Config=self._transfer)

    def _done(self, key: str, future: "Future[None]") -> None:
        self._room.release()
        with self._lock:  # failures stay for settle to find
            if future.exception() is None and self._under_way.get(key) is future:
                del self._under_way[key]

    def _forget(self, keys: Sequence[str]) -> None:
        """Wait for uploads of these keys, which would otherwise land after their deletion, and drop their failures."""
        with self._lock:
            waiting = [(key, self._under_way[key]) for key in keys if key in self._under_way]
        for key, future in waiting:
            future.exception()
            with self._lock:
                if self._under_way.get(key) is future:
                    del self._under_way[key]


class _S3Upload(Upload):
    def __init__(self, key: str, limit: int, storage: S3Storage) -> None:
        super().__init__(key, limit)
        self._storage = storage
        self._spool: IO[bytes] = SpooledTemporaryFile(_SPOOL)  # noqa: SIM115 -- outlives this method

    def _keep(self, data: bytes) -> None:
        try:
            self._spool.write(data)
        except OSError as error:
            raise StorageAway(f"No room to hold a photo on its way to the storage: {error.strerror}.") from error

    def _commit(self) -> None:
        self._storage.send(self.key, self._spool)

    def _discard(self) -> None:
        self._spool.close()


def _client(session: Session, endpoint: str, *, connect: float, read: float, attempts: int) -> "S3Client":
    own = bool(endpoint)
    config = Config(
        connect_timeout=connect,
        read_timeout=read,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        signature_version="s3v4",
        max_pool_connections=32,
        s3={"addressing_style": "path" if own else "auto"},
        # Many S3-compatible servers refuse the checksums that boto3 adds by default.
        request_checksum_calculation="when_required" if own else "when_supported",
        response_checksum_validation="when_required" if own else "when_supported",
    )
    region = session.region_name or "us-east-1"
    return session.client("s3", endpoint_url=endpoint or None, region_name=region, config=config)


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "unknown")


@contextmanager
def _away() -> Iterator[None]:
    """Turn boto3's errors into ``StorageAway``, and a missing object into ``ObjectMissing``."""
    try:
        yield
    except ClientError as error:
        code = _code(error)
        if code in _MISSING:
            raise ObjectMissing("The photo storage has no such object.") from error
        raise StorageAway(_WHY.get(code, f"The photo storage refused: {code}.")) from error
    except (BotoCoreError, Boto3Error, OSError) as error:
        raise StorageAway(f"The photo storage is out of reach ({type(error).__name__}).") from error
