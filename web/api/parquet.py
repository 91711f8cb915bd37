"""Results as an Apache Parquet file: a row a photo, in the columns of the CSV, typed, and what only NDJSON has.

The schema is part of the published API and does not depend on the job: a column may be added to it, none changes its
type. The file is written group by group as it goes out, so that memory holds one group however large the job is. It
ends with its table of contents: one that was cut off has none, and no reader takes it for whole.
"""

import io
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from shared.bundle import RESEARCH_USE
from shared.errors import DatabaseAway
from shared.logs import logger
from shared.views import JobDeleted, ResultView
from web.wire import USE, Address, result_body

if TYPE_CHECKING:
    import pyarrow as pa
    from _typeshed import ReadableBuffer

log = logger(__name__)

MEDIA_TYPE: Final = "application/vnd.apache.parquet"
DESCRIPTION: Final = (
    "A Parquet file (zstd) with a row a photo: the columns of the CSV with types of their own, and `job`, "
    "`thresholds`, `evidence` (49 numbers), `photo_url`, `heatmap_url`, `decode_ms`, `network_ms`. `probabilities` and "
    "`thresholds` are maps of text to double, `prediction_set` and `reasons` lists of text, `finished_at` is in "
    "microseconds, UTC. Its metadata has `poxvisio.use` (`research-only`) and `poxvisio.schema` (`1`). A file that was "
    "cut off cannot be opened."
)
SCHEMA_VERSION: Final = "1"
# Rows in memory at once; larger groups compress no better.
_GROUP: Final = 2_000


def schema() -> "pa.Schema":
    """Return the schema of every file."""
    import pyarrow as pa  # noqa: PLC0415 - tens of megabytes that a web process needs for this alone

    text, texts, number = pa.string(), pa.list_(pa.string()), pa.float64()
    by_label = pa.map_(text, number)
    fields = [
        *(("ordinal", pa.int32()), ("image", text), ("custom_id", text), ("file_name", text), ("sha256", text)),
        *(("bytes", pa.int64()), ("outcome", text), ("label", text), ("probability", number)),
        *(("probabilities", by_label), ("prediction_set", texts), ("reasons", texts), ("in_distribution", pa.bool_())),
        *(("blur", number), ("exposure", number), ("size", pa.int64()), ("flat", number), ("duplicate_of", text)),
        *(("model_id", text), ("model_digest", text), ("attempts", pa.int32())),
        *(("finished_at", pa.timestamp("us", tz="UTC")), ("use", text)),
        *(("job", text), ("thresholds", by_label), ("evidence", pa.list_(number))),
        *(("photo_url", text), ("heatmap_url", text), ("decode_ms", number), ("network_ms", number)),
    ]
    notes = {"poxvisio.schema": SCHEMA_VERSION, "poxvisio.use": USE, "poxvisio.notice": RESEARCH_USE}
    return pa.schema(fields, notes)


def pieces(rows: Iterable[ResultView], url: str, address: Address | None = None) -> Iterator[bytes]:
    """Yield the file; where the rows break off, it ends without its table of contents."""
    import pyarrow as pa  # noqa: PLC0415 - as above
    from pyarrow import parquet  # noqa: PLC0415

    shape, out, left = schema(), _Outbox(), iter(rows)
    # Not in a with statement: that would give the file its end whatever happened.
    writer = parquet.ParquetWriter(out, shape, compression="zstd")
    try:
        while group := [_row(row, url, address) for row in islice(left, _GROUP)]:
            writer.write_table(pa.Table.from_pylist(group, shape))
            yield out.take()
    except (DatabaseAway, JobDeleted) as error:
        log.warning("results_cut_off", why=type(error).__name__)
        return
    writer.close()
    yield out.take()


def _row(view: ResultView, url: str, address: Address | None) -> dict[str, Any]:
    body = result_body(view, url, address)
    kept = body.model_dump(exclude={"quality", "times", "model"})
    quality, times = body.quality or {}, body.times
    probabilities = body.probabilities or {}
    return {
        **kept,
        "probability": probabilities.get(body.label or ""),
        "probabilities": list(probabilities.items()),
        "thresholds": list((body.thresholds or {}).items()),
        **{name: quality.get(name) for name in ("blur", "exposure", "flat")},
        "size": int(quality["size"]) if "size" in quality else None,
        "model_id": body.model.id if body.model else None,
        "model_digest": body.model.digest if body.model else None,
        **{name: times.get(name) for name in ("finished_at", "decode_ms", "network_ms")},
    }


class _Outbox(io.RawIOBase):
    """What was written and not sent yet."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._sent = 0

    def writable(self) -> bool:
        """Say so."""
        return True

    def write(self, data: "ReadableBuffer", /) -> int:
        """Keep some bytes."""
        written = memoryview(data).nbytes
        self._waiting += data
        return written

    def tell(self) -> int:
        """Return how many bytes were written in all."""
        return self._sent + len(self._waiting)

    def take(self) -> bytes:
        """Return what has come since the last call."""
        taken = bytes(self._waiting)
        self._sent += len(taken)
        self._waiting.clear()
        return taken
