"""The pages: the one people work with, the one a problem's address leads to, and the files they load."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from flask import Blueprint, Response, render_template, request

from shared.bundle import RESEARCH_USE
from web.access import PAGE_POLICY
from web.openapi import Answer, operation
from web.problems import KINDS, NOT_FOUND, not_found
from web.services import services
from web.wire import Shape, respond

pages = Blueprint("pages", __name__)

_STATIC: Final = Path(__file__).resolve().parent.parent / "static"
_MEDIA: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_HTML: Final = {"type": "string"}
_TAG: Final = "pages"


class KindBody(Shape):
    """A type of problem."""

    type: str
    status: int
    title: str
    meaning: str


@pages.get("/")
@operation("The page people work with", {200: Answer("A page.", {"text/html": _HTML})}, tag=_TAG)
def home() -> Response:
    """Show the page; it holds no data, which it fetches with the reader's key."""
    return _page(render_template("home.html", notice=RESEARCH_USE, asset=asset))


@pages.get("/problems/<name>")
@operation(
    "What a problem means",
    {200: Answer("The meaning of this type of problem.", {"text/html": _HTML, "application/json": KindBody})},
    tag=_TAG,
    problems=(NOT_FOUND,),
)
def problem(name: str) -> Response:
    """Explain a type of problem, to people or to programs."""
    kind = KINDS.get(name)
    if kind is None:
        raise not_found()
    if request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json":
        address = f"{services().settings.public_url}/problems/{name}"
        told = KindBody(type=address, status=kind.status, title=kind.title, meaning=kind.meaning)
        return respond(told, headers={"Vary": "Accept"})
    page = _page(render_template("problem.html", kind=kind, kinds=KINDS.values(), notice=RESEARCH_USE, asset=asset))
    page.vary.add("Accept")
    return page


@pages.get("/static/<name>")
@operation("A file of the pages", {200: Answer("The file.", {"*/*": {}})}, tag=_TAG, problems=(NOT_FOUND,))
def static(name: str) -> Response:
    """Send a style sheet, script or picture; its address changes with its contents."""
    file = _files().get(name)
    if file is None:
        raise not_found()
    answer = Response(file.data, mimetype=file.media)
    answer.headers["Cache-Control"] = _FOR_EVER if request.args.get("v") == file.mark else "no-cache"
    return answer


def asset(name: str) -> str:
    """Return the address of a file of ours, with its contents' hash in it."""
    return f"/static/{name}?v={_files()[name].mark}"


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    media: str
    mark: str


@cache
def _files() -> dict[str, _File]:
    return {path.name: _read(path) for path in _STATIC.iterdir() if path.suffix in _MEDIA}


def _read(path: Path) -> _File:
    data = path.read_bytes()
    return _File(data, _MEDIA[path.suffix], hashlib.sha256(data).hexdigest()[:16])


def _page(html: str) -> Response:
    answer = Response(html, mimetype="text/html")
    answer.headers["Content-Security-Policy"] = PAGE_POLICY
    return answer
