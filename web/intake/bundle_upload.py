"""A bundle as it comes in: its files as multipart parts of their own names, verified whole before anything is kept.

There is no archive to expand: five names are known and that of a report, each may come once, and nothing else is taken.
"""

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from flask import Request

from shared.bundle import CALIBRATION, CARD, LARGEST_REPORT, REPORT, Bundle, load_bundle
from shared.errors import BundleError, Refused
from shared.registry import records
from shared.registry.bundles import FILES
from web.intake.body import Body
from web.intake.envelope import Begin, Data, Envelope, Malformed
from web.places import Place
from web.problems import BROKEN_BODY, MODEL_REFUSED, TOO_LARGE, UNSUPPORTED_TYPE, Problem

_LONGEST_BOUNDARY: Final = 200
_MOST: Final = {CARD: 1 << 20, CALIBRATION: 1 << 20, Path(REPORT).name: LARGEST_REPORT}
_PLACES: Final = {**{name: name for name in FILES}, Path(REPORT).name: REPORT}
_LABELS: Final = 2


@contextmanager
def received(request: Request, limit: int, place: Place) -> Iterator[Bundle]:
    """Read the request's bundle into a folder that lasts as long as the block, and verify it; raises ``Problem``."""
    if request.mimetype != "multipart/form-data":
        raise Problem(UNSUPPORTED_TYPE, "Send the bundle's files as multipart/form-data.")
    boundary = request.mimetype_params.get("boundary", "")
    if not boundary or len(boundary) > _LONGEST_BOUNDARY or not boundary.isascii():
        raise Problem(BROKEN_BODY, "The Content-Type names no boundary.")
    body = Body(request.environ, limit, place)
    with tempfile.TemporaryDirectory(prefix="poxvisio-bundle-") as name:
        folder = Path(name)
        try:
            _read(Envelope(boundary.encode("ascii")), body, folder)
        except Malformed as error:
            raise Problem(BROKEN_BODY, f"The multipart body is broken: {error}.") from None
        yield _verified(folder)


def _read(envelope: Envelope, body: Body, folder: Path) -> None:
    with ExitStack() as opened:
        file: BinaryIO | None = None
        left: float = 0
        for event in envelope.events(iter(body.read, b"")):
            if isinstance(event, Begin):
                file = opened.enter_context(_begin(folder, event.name))
                left = _MOST.get(str(event.name), math.inf)
            elif isinstance(event, Data) and file is not None:
                left -= len(event.data)
                if left < 0:
                    raise Problem(TOO_LARGE, "The bundle's JSON files may have 1 MiB each, its report 16 MiB.")
                file.write(event.data)


def _begin(folder: Path, name: str | None) -> BinaryIO:
    if name not in _PLACES:
        raise Problem(BROKEN_BODY, f"A bundle has the parts {', '.join(_PLACES)}, and no others.")
    file = folder / _PLACES[name]
    file.parent.mkdir(exist_ok=True)
    try:
        return file.open("xb")
    except FileExistsError:
        raise Problem(BROKEN_BODY, f"There are two parts named {name}.") from None


def _verified(folder: Path) -> Bundle:
    try:
        bundle = load_bundle(folder)
        records.check_id(bundle.id)
    except (BundleError, Refused) as error:
        said = str(error).replace(f"{folder}/", "")
        raise Problem(MODEL_REFUSED, said[0].upper() + said[1:]) from None
    except (TypeError, RecursionError):
        raise Problem(MODEL_REFUSED, "Its JSON files do not have the form of a bundle's.") from None
    labels = bundle.labels
    if len(labels) < _LABELS or len(set(labels)) != len(labels) or not _is_storable(dict(bundle.card), list(labels)):
        raise Problem(MODEL_REFUSED, "Its card or its labels hold what cannot be kept, or labels are too few.")
    return bundle


def _is_storable(*values: Any) -> bool:
    """PostgreSQL's JSON holds neither NUL nor lone surrogates, nor numbers that are none."""
    try:
        text = json.dumps(values, ensure_ascii=False, allow_nan=False)
        return "\\u0000" not in text and bool(text.encode())
    except (ValueError, RecursionError):
        return False
