"""Where photos and their working copies live: one interface over a folder and S3."""

from urllib.parse import unquote, urlsplit

from shared.settings import Settings
from shared.storage.file import FileStorage
from shared.storage.interface import Item, Storage, Stored, Upload

__all__ = ["Item", "Storage", "Stored", "Upload", "open_storage", "storage_at"]


def open_storage(settings: Settings) -> Storage:
    """The storage that ``STORAGE_URL`` names. Raises ``StorageAway`` if its folder can be neither found nor made.

    S3 is not contacted before it is used.
    """
    return storage_at(settings.storage_url, endpoint=settings.s3_endpoint)


def storage_at(address: str, *, endpoint: str = "") -> Storage:
    """The storage at an address as ``STORAGE_URL`` has it; ``ValueError`` for one that no storage speaks."""
    url = urlsplit(address)
    if url.scheme == "file":
        return FileStorage(unquote(url.path))
    if url.scheme == "s3":
        from shared.storage.s3 import S3Storage  # noqa: PLC0415 -- boto3 takes a third of a second: only where used

        return S3Storage(url.netloc, url.path.strip("/"), endpoint=endpoint)
    raise ValueError(f"no storage speaks {url.scheme}://")
