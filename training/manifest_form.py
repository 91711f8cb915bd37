"""Owns the two forms in which a manifest lies on a disk, Parquet and CSV, and the checksum that both carry.

The checksum is that of the rows as CSV in either form, so that the same manifest has one digest. CSV carries it in a
line before the rows, Parquet in the metadata of its schema.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Final

import pandas as pd

from shared.errors import DataRefused

VERSION: Final = 1
# The columns of every manifest; `stage` (float) and `tone` (int) follow where they are known.
COLUMNS: Final = (
    "image", "sha256", "phash", "patient", "group", "label", "source", "synthetic", "fold", "named_split",
)  # fmt: skip
TRAITS: Final = ("stage", "tone")
#: The names under which a manifest is looked for beside its photos.
NAMES: Final = ("manifest.parquet", "manifest.csv")
_HEAD: Final = re.compile(r"# poxvisio manifest (\d+) sha256=([0-9a-f]{64})")
_PARQUET: Final = b"PAR1"  # its first four bytes
_KEY: Final = b"poxvisio manifest"


def digest_of(frame: pd.DataFrame) -> str:
    """The SHA-256 of the rows as CSV."""
    return hashlib.sha256(_rows(frame).encode()).hexdigest()


def packed(frame: pd.DataFrame, path: Path) -> bytes:
    """The manifest as a file of this name holds it: Parquet where it ends so, else CSV."""
    digest = digest_of(frame)
    if path.suffix.lower() != ".parquet":
        return f"# poxvisio manifest {VERSION} sha256={digest}\n{_rows(frame)}".encode()
    import pyarrow as pa  # noqa: PLC0415 - half a second
    from pyarrow import parquet  # noqa: PLC0415

    table = pa.Table.from_pandas(frame[_columns(frame)], preserve_index=False)
    known = {**(table.schema.metadata or {}), _KEY: f"{VERSION} {digest}".encode()}
    out = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(known), out)
    return out.getvalue()


def as_csv(path: Path) -> bytes:
    """A manifest's file as CSV: the very bytes where it is, else its rows anew. Raises `DataRefused`, OSError."""
    data = path.read_bytes()
    return packed(_from_parquet(data, path), Path(NAMES[-1])) if data.startswith(_PARQUET) else data


def unpacked(path: Path) -> pd.DataFrame:
    """The rows of a manifest's file, of whatever name, whose checksum holds. Raises `DataRefused`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataRefused(
            f"there is no manifest {path}: `poxvisio data check FOLDER --manifest {path}` writes it"
        ) from error
    except OSError as error:
        raise DataRefused(f"{path} cannot be read: {error.strerror}") from error
    return _from_parquet(data, path) if data.startswith(_PARQUET) else _from_csv(data, path)


def _from_csv(data: bytes, path: Path) -> pd.DataFrame:
    try:
        head, _, rows = data.decode("utf-8").partition("\n")
    except UnicodeDecodeError as error:
        raise DataRefused(f"{path} is no manifest: it is no text") from error
    match = _HEAD.fullmatch(head)
    if match is None:
        raise DataRefused(f"{path} is no manifest: its first line is not one; `poxvisio data check` writes one")
    _check(path, match[1], match[2], hashlib.sha256(rows.encode()).hexdigest())
    return _typed(pd.read_csv(io.StringIO(rows), dtype=str, keep_default_na=False), path)


def _from_parquet(data: bytes, path: Path) -> pd.DataFrame:
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    try:
        table = parquet.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise DataRefused(f"{path} cannot be read as Parquet: build the manifest anew") from error
    version, _, digest = (table.schema.metadata or {}).get(_KEY, b"").decode("ascii", "replace").partition(" ")
    if not digest:
        raise DataRefused(f"{path} is no manifest, though it is Parquet; `poxvisio data check` writes one")
    frame = table.to_pandas()
    _refuse_absent(frame, path)
    _check(path, version, digest, digest_of(frame))
    return _typed(frame, path)


def _check(path: Path, version: str, digest: str, found: str) -> None:
    if version != str(VERSION):
        raise DataRefused(f"{path} is a manifest of version {version}, this program reads {VERSION}: build it anew")
    if found != digest:
        raise DataRefused(f"{path} has been changed since it was written: its checksum does not hold. Build it anew")


def _refuse_absent(frame: pd.DataFrame, path: Path) -> None:
    if absent := [name for name in COLUMNS if name not in frame]:
        raise DataRefused(f"{path} lacks the columns {', '.join(absent)}")


def _typed(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    _refuse_absent(frame, path)
    try:
        frame["synthetic"] = frame["synthetic"].map({"True": True, "False": False, True: True, False: False})
        frame["synthetic"] = frame["synthetic"].astype(bool)
        frame["fold"] = frame["fold"].astype("int64")
        if "stage" in frame:
            frame["stage"] = frame["stage"].replace("", "nan").astype("float64")
        if "tone" in frame:
            frame["tone"] = frame["tone"].astype("int64")
    except ValueError as error:
        raise DataRefused(f"{path} holds something else than a number: {error}") from error
    return frame


def _columns(frame: pd.DataFrame) -> list[str]:
    return [*COLUMNS, *(name for name in TRAITS if name in frame)]


def _rows(frame: pd.DataFrame) -> str:
    return str(frame[_columns(frame)].to_csv(index=False, lineterminator="\n"))
