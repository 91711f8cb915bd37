"""The page in a real browser: a key, photos, answers, pictures, and nothing the policy would refuse."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image

from shared.database import Database
from shared.storage.file import FileStorage
from tests.integration.web import browser
from tests.integration.web.answering import answer_all
from tests.integration.web.browser import Tab
from tests.integration.web.conftest import Server

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="there is no Chromium (Debian: apt install chromium)")


@pytest.fixture
def tab(server: Server, chromium: int) -> Iterator[Tab]:
    with browser.open_tab(chromium) as opened:
        opened.command("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
        opened.until("document.readyState === 'complete' && document.activeElement?.id === 'key'")
        yield opened


def sign_in(tab: Tab, key: str) -> None:
    tab.evaluate(f"document.getElementById('key').value = {key!r}")
    tab.evaluate("document.getElementById('key-form').requestSubmit()")


def store_copies(worker_db: Database, root: Path) -> None:
    """Put a working copy where a worker would."""
    picture = io.BytesIO()
    Image.new("RGB", (320, 200), (200, 150, 130)).save(picture, "JPEG")
    with worker_db.transaction() as session:
        for image, job in session.execute(sa.text("SELECT id, job_id FROM image")):
            FileStorage(root).write(f"copies/{job.hex}/{image.hex}.jpg", picture.getvalue())


def test_a_wrong_key_is_told_and_not_kept(tab: Tab) -> None:
    sign_in(tab, "pxv_wrong_wrong")
    tab.until("document.getElementById('key-error').textContent.includes('no such key')")
    assert tab.evaluate("sessionStorage.length") == 0
    assert tab.evaluate("document.getElementById('work').hidden") is True


def test_photos_are_sent_followed_and_shown(tab: Tab, server: Server, worker_db: Database, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.jpg" for name in ("one", "two", "three")]
    for file in files:
        file.write_bytes(file.name.encode())
    sign_in(tab, server.key)
    tab.until("!document.getElementById('work').hidden")
    tab.until("document.getElementById('model').textContent.includes('synthetic')")
    tab.choose_files("#files", files)
    tab.until("document.getElementById('job-status').textContent.startsWith('0 of 3 done')")
    store_copies(worker_db, server.photos)
    answer_all(worker_db, ("classified", "rejected", "abstained"))
    tab.until("document.getElementById('job-status').textContent.startsWith('3 of 3 accounted for')")
    tab.until("document.querySelectorAll('.card').length === 3")
    assert tab.evaluate("[...document.querySelectorAll('.badge')].map(badge => badge.textContent).join()") == (
        "classified,rejected,abstained"
    )
    # Names in the order of the page: as a person would sort them.
    assert tab.evaluate("document.querySelector('.card .name').textContent") == "one.jpg"
    assert tab.evaluate("document.querySelector('.card .percent').textContent") == "93.0 %"

    tab.evaluate("document.getElementById('results').scrollIntoView()")
    tab.until("document.querySelector('.card .photo').naturalWidth === 320")
    tab.until("!document.querySelector('.card .toggle').hidden")
    tab.evaluate("document.querySelector('.card .toggle').click()")
    tab.until("document.querySelector('.card .heat').naturalWidth === 320")
    assert tab.evaluate("document.querySelector('.card .toggle').getAttribute('aria-pressed')") == "true"

    for width in (360, 1200):
        tab.command("Emulation.setDeviceMetricsOverride", width=width, height=740, deviceScaleFactor=1, mobile=True)
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    assert "Research use only" in tab.evaluate("document.querySelector('.notice').innerText")
    assert tab.complaints == []
    assert server.key not in tab.evaluate("performance.getEntriesByType('resource').map(entry => entry.name).join()")


def test_a_reload_finds_the_job_again(tab: Tab, server: Server, worker_db: Database, tmp_path: Path) -> None:
    photo = tmp_path / "one.jpg"
    photo.write_bytes(b"1")
    sign_in(tab, server.key)
    tab.until("!document.getElementById('work').hidden")
    tab.choose_files("#files", [photo])
    tab.until("location.hash.startsWith('#job_')")
    tab.command("Page.reload")
    tab.until("document.getElementById('job-status')?.textContent.startsWith('0 of 1 done')")
    answer_all(worker_db)
    tab.until("document.querySelectorAll('.card').length === 1")
    tab.evaluate("document.getElementById('forget').click()")
    # The page loads anew, so there are moments without any of it.
    tab.until("sessionStorage.length === 0 && document.getElementById('work')?.hidden === true")
