"""The pages: the one people work with, the one a problem's address leads to, and the files they load."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from flask import Blueprint, Response, current_app, render_template, request
from markupsafe import Markup
from pydantic import Field

from shared.bundle import RESEARCH_USE
from web.access import PAGE_POLICY
from web.advice import advice_of, example_of_problem
from web.description import described
from web.operations import Answer, operation
from web.pages.reference import breakable, inline, pretty, reference, used_by
from web.problems import KINDS, NOT_FOUND, not_found
from web.services import services
from web.wire import Shape, respond

pages = Blueprint("pages", __name__)

_STATIC: Final = Path(__file__).resolve().parent.parent / "static"
_MEDIA: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_HTML: Final = {"type": "string"}
_TAG: Final = "pages"
_DOCS: Final = "poxvisio.docs"


class KindBody(Shape):
    """A type of problem."""

    type: str
    status: int
    title: str
    meaning: str
    do: str = Field(description="What to do about it")
    is_temporary: bool = Field(description="Whether the same request may work later")
    example: dict[str, Any] = Field(description="An answer of this type")


@pages.get("/")
@operation("The page people work with", {200: Answer("A page.", {"text/html": _HTML})}, tag=_TAG)
def home() -> Response:
    """Show the page; it holds no data, which it fetches with the reader's key."""
    return _page(_rendered("home.html"))


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
    url, advice = services().settings.public_url, advice_of(kind)
    example = example_of_problem(kind, url)
    if request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json":
        address = f"{url}/problems/{name}"
        told = KindBody(
            type=address,
            status=kind.status,
            title=kind.title,
            meaning=kind.meaning,
            do=advice.do,
            is_temporary=advice.again,
            example=example,
        )
        return respond(told, headers={"Vary": "Accept"})
    routes = used_by(described(current_app, url), kind)
    page = _page(_rendered("problem.html", kind=kind, advice=advice, example=example, used_by=routes))
    page.vary.add("Accept")
    return page


@pages.get("/docs")
@operation(
    "The reference of this API",
    {200: Answer("What `/openapi.json` says, for people; it loads nothing from elsewhere.", {"text/html": _HTML})},
    tag=_TAG,
)
def docs() -> Response:
    """Show the description of every route."""
    kept: str | None = current_app.extensions.get(_DOCS)
    if kept is None:
        told = reference(described(current_app, services().settings.public_url))
        kept = current_app.extensions[_DOCS] = _rendered("docs.html", **told)
    answer = _page(kept)
    answer.headers["Cache-Control"] = "public, max-age=300"
    return answer


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


def _rendered(template: str, **shown: Any) -> str:
    return render_template(template, notice=RESEARCH_USE, asset=asset, **shown)


@pages.app_template_filter("inline")
def _inline(text: str) -> Markup:
    return inline(text)


@pages.app_template_filter("breakable")
def _breakable(path: str) -> Markup:
    return breakable(path)


@pages.app_template_filter("pretty")
def _pretty(value: Any) -> str:
    return pretty(value)


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
