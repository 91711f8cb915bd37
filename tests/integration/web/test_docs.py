"""The page ``/docs``: complete, sound as HTML, loaded from nowhere else, and fit for a narrow screen."""

import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from flask import Flask

from tests.integration.web import browser
from tests.integration.web.browser import Tab
from tests.integration.web.conftest import Caller, Server
from web.operations import described_rules
from web.problems import KINDS

_VOID = {"meta", "link", "img", "wbr", "br", "hr", "input"}


class Page(HTMLParser):
    """What a page holds, and that each element that opens is closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.headings: list[int] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag not in _VOID:
            self._open.append(tag)
        if "id" in found:
            self.ids[found["id"]] += 1
        if tag == "a":
            self.links.append(found["href"])
        self.loaded += [found[name] for name in ("src", "srcset", "style") if name in found]
        if tag == "link":
            self.loaded.append(found["href"])
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "pre":
            assert found["tabindex"] == "0", "what scrolls must be reached by the keyboard"
            assert found["aria-label"]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


@pytest.fixture
def page(clinic: Caller) -> Page:
    answer = clinic.client.get("/docs")
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    assert "Research use only" in answer.text
    return Page(answer.text)


def test_every_route_and_every_problem_is_there(app: Flask, page: Page) -> None:
    for rule, _ in described_rules(app):
        assert rule.endpoint.replace(".", "_") in page.ids, rule.rule
    for name in KINDS:
        assert f"/problems/{name}" in page.links, name


def test_every_link_leads_somewhere(clinic: Caller, page: Page) -> None:
    assert max(page.ids.values()) == 1
    for link in set(page.links):
        path, _, anchor = link.partition("#")
        if path:
            assert clinic.client.get(path).status_code == 200, link
        if anchor:
            assert anchor in page.ids, link


def test_nothing_is_loaded_from_elsewhere(clinic: Caller, page: Page) -> None:
    assert page.loaded
    for address in page.loaded:
        assert address.startswith("/static/"), address
        assert clinic.client.get(address).status_code == 200
    assert "<script" not in clinic.client.get("/docs").text


def test_headings_leave_out_no_level(page: Page) -> None:
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(following - level <= 1 for level, following in zip(page.headings, page.headings[1:], strict=False))


def test_every_problem_page_is_sound(clinic: Caller) -> None:
    for name in KINDS:
        found = Page(clinic.client.get(f"/problems/{name}").text)
        assert found.headings[:3] == [1, 2, 2]
        for link in found.links:
            assert not (path := link.partition("#")[0]) or clinic.client.get(path).status_code == 200, link


@pytest.fixture
def tab(server: Server, chromium: int) -> Iterator[Tab]:
    with browser.open_tab(chromium) as opened:
        opened.command("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        opened.command("Page.navigate", url=f"http://127.0.0.1:{server.port}/docs")
        opened.until("document.readyState === 'complete' && document.styleSheets.length === 2")
        yield opened


@pytest.mark.skipif(browser.PROGRAM is None, reason="there is no Chromium (Debian: apt install chromium)")
def test_a_telephone_needs_no_scrolling_sideways(tab: Tab) -> None:
    tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert tab.evaluate("document.querySelectorAll('article').length") > 60
