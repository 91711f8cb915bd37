"""Owns the fetching of MSLD from Kaggle through Kaggle's own client: resumed, checked, unpacked whole or not at all.

The photos are not ours to hand on: nothing of them is in the repository, and their licence is kept beside them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from shared.errors import DataRefused, StorageAway, Unavailable
from training.landing import landing, refuse_occupied, telling_of_the_disk
from training.layouts import V1, V2, recognise
from training.shelf import Shelf, Show
from worker.unzipping.contents import read_entry
from worker.unzipping.directory import read_directory
from worker.unzipping.judging import judge
from worker.unzipping.reasons import REASONS, ArchiveRefused, Limits

SOURCES: Final = {
    V1: ("nafin59", "monkeypox-skin-lesion-dataset"),
    V2: ("joydippaul", "mpox-skin-lesion-dataset-version-20-msld-v20"),
}
LICENCE: Final = "LICENCE.txt"
RECORD: Final = "FETCHED.json"
LIMITS: Final = Limits(photos=100_000, photo_bytes=50 << 20, expanded_bytes=8 << 30)
_KEPT: Final = frozenset({".jpg", ".jpeg", ".png", ".csv", ".xlsx", ".txt", ".md"})
_PIECE: Final = 16 << 10  # of a cut download the last piece is lost
_TIMEOUT: Final = (10, 60)


@dataclass(frozen=True)
class _File:
    """An archive on disk, as the reader of archives wants it."""

    path: Path

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self.path.stat().st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return that many bytes from there on, fewer where the archive ends."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


def fetch(
    name: str, folder: Path, *, show: Show, shelf: Shelf | None = None, fresh: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Fetch a data set into a new or empty folder, and return what is recorded beside it.

    1. Takes the copy that the service's storage keeps, unless `fresh`; its digest must be that of the record.
    2. Else asks Kaggle for the licence and the archive, with the credentials that Kaggle's client finds, and goes on
       with what an earlier call left, where Kaggle still has the same archive (its ETag says so).
    3. Refuses the archive as a whole where one entry is hostile, damaged or of a layout we do not know.
    4. Puts the folder in its place, keeps a copy in the storage, and removes the archive.
    Raises DataRefused, Unavailable.
    """
    refuse_occupied(folder)
    partial = folder.parent / f".{folder.name}.{name}.zip.part"
    with telling_of_the_disk(partial):
        folder.parent.mkdir(parents=True, exist_ok=True)
        taken = partial.with_suffix(".held")
        record = None if fresh or shelf is None else _kept(shelf, name, taken, show, tell)
        archive = taken if record else partial
        record = record or _record(name, partial, show)
    with landing(folder) as place:
        try:
            _unpack(archive, place)
            _refuse_other_layout(name, recognise(place).name)
        except (ArchiveRefused, DataRefused, FileExistsError, NotADirectoryError) as error:
            archive.unlink()  # going on with it would end the same way
            _marker(partial).unlink(missing_ok=True)
            why = str(error).replace(f"{place}/", "").rstrip(".")
            raise DataRefused(f"the archive of {name} is damaged or has changed: {why}. Fetch it again") from error
        (place / LICENCE).write_text(
            f"{record['licence']}\n{record['source']}\nNot ours to hand on.\n", encoding="utf-8"
        )
        (place / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if shelf is not None and archive == partial:
        _keep(shelf, record, partial, tell)
    archive.unlink()
    _marker(partial).unlink(missing_ok=True)
    return record


def _kept(
    shelf: Shelf, name: str, archive: Path, show: Show, tell: Callable[[str], None]
) -> dict[str, Any] | None:  # fmt: skip
    try:
        record = shelf.record(name)
        if record is not None:
            shelf.take(record, archive, show)
            tell(f"{name} comes from the copy in the storage; --fresh asks Kaggle")
    except (DataRefused, StorageAway) as error:
        tell(f"{error}; asking Kaggle instead")
        return None
    return record


def _keep(shelf: Shelf, record: dict[str, Any], archive: Path, tell: Callable[[str], None]) -> None:
    try:
        shelf.put(record, archive)
    except StorageAway as error:
        tell(f"no copy is kept for other machines: {error}")


def _record(name: str, partial: Path, show: Show) -> dict[str, Any]:
    licence, etag = _download(name, partial, show)
    owner, slug = SOURCES[name]
    return {
        "data_set": name, "source": f"https://www.kaggle.com/datasets/{owner}/{slug}", "licence": licence,
        "etag": etag, "sha256": _digest(partial), "bytes": partial.stat().st_size,
    }  # fmt: skip


def _download(name: str, partial: Path, show: Show) -> tuple[str, str]:
    # Not the package `kaggle`: importing that speaks to the network. It brings this client of Kaggle's along.
    import requests  # noqa: PLC0415
    from kagglesdk import KaggleClient  # noqa: PLC0415
    from kagglesdk.datasets.types.dataset_api_service import (  # noqa: PLC0415
        ApiDownloadDatasetRequest,
        ApiGetDatasetMetadataRequest,
    )

    owner, slug = SOURCES[name]
    page = f"https://www.kaggle.com/datasets/{owner}/{slug}"
    asked, wanted = ApiGetDatasetMetadataRequest(), ApiDownloadDatasetRequest()
    for request in (asked, wanted):
        request.owner_slug, request.dataset_slug = owner, slug
    user, key = os.environ.get("KAGGLE_USERNAME"), os.environ.get("KAGGLE_KEY")  # as the package `kaggle` reads them
    try:
        with KaggleClient(username=user, password=key) as client:
            told = client.datasets.dataset_api_client.get_dataset_metadata(asked)
            licences = ", ".join(each.name for each in told.info.licenses) if told.info else ""
            answer = client.datasets.dataset_api_client.download_dataset(wanted)
            etag = str(answer.headers.get("ETag", ""))
            _stream(answer, partial, etag, show)
    except requests.HTTPError as error:
        raise _refusal(error.response, page) from error
    except requests.RequestException as error:
        raise Unavailable(
            f"Kaggle is out of reach or cut the download ({type(error).__name__}): call again, it goes on where it was"
        ) from error
    return licences or "not told by Kaggle; see the data set's page", etag


def _stream(answer: Any, partial: Path, etag: str, show: Show) -> None:
    import requests  # noqa: PLC0415

    total = int(answer.headers.get("Content-Length", 0))
    held = partial.stat().st_size if partial.exists() else 0
    known = _marker(partial).read_text(encoding="utf-8") if _marker(partial).exists() else ""
    if not (etag and known == etag and 0 < held <= total):
        held = 0
    elif held < total:
        answer.close()
        answer = requests.get(
            answer.url, headers={"Range": f"bytes={held}-", "If-Range": etag}, stream=True, timeout=_TIMEOUT
        )
        answer.raise_for_status()
        held = held if answer.status_code == requests.codes.partial_content else 0
    _marker(partial).write_text(etag, encoding="utf-8")
    with show(total) as advance, partial.open("ab" if held else "wb") as file:
        if held < total or not total:
            for piece in answer.iter_content(_PIECE):
                file.write(piece)
                held += len(piece)
                advance(held)
    if total and held != total:
        raise Unavailable(f"the download ended after {held:,} of {total:,} bytes: call again, it goes on where it was")


def _refusal(response: Any, page: str) -> Exception:
    match response.status_code:
        case 401:
            return Unavailable(
                "Kaggle does not know who asks: make a token at https://www.kaggle.com/settings and put it into "
                "KAGGLE_API_TOKEN, or kaggle.json into ~/.kaggle"
            )
        case 403:
            return Unavailable(f"Kaggle refuses: sign in, accept the data set's terms at {page}, then call again")
        case 404:
            return Unavailable(f"Kaggle has no such data set any more: {page}")
        case 429:
            after = response.headers.get("Retry-After")
            return Unavailable(f"Kaggle asks for patience: call again {f'in {after} s' if after else 'later'}")
    return Unavailable(f"Kaggle answered {response.status_code}: call again later")


def _unpack(archive: Path, place: Path) -> None:
    source = _File(archive)
    for judged in judge(read_directory(source, LIMITS), LIMITS):
        name = judged.entry.name
        if judged.reason is not None:
            raise DataRefused(f"{name!r}: {REASONS[judged.reason]}")
        if PurePosixPath(name).suffix.lower() not in _KEPT:
            continue
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            for piece in read_entry(source, judged):
                file.write(piece)


def _refuse_other_layout(name: str, found: str) -> None:
    if found != name:
        raise DataRefused(f"it is laid out as {found}")


def _marker(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.etag")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
