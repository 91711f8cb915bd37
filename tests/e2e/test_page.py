"""The page at / as people use it, in a real browser: a key, photos, progress, answers, the list of jobs."""

from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.e2e.browser import browser
from tests.e2e.conftest import ROOT, Running

__all__ = ["browser"]

SAMPLES = sorted((ROOT / "models" / "demo" / "photos").glob("*.jpg"))
NOTICE = "Research use only. Not a medical device. A negative result does not exclude mpox; confirm by PCR."
PATIENCE = 60


@pytest.fixture
def page(browser: webdriver.Chrome, running: Running) -> Iterator[webdriver.Chrome]:
    browser.set_window_size(1200, 1000)
    browser.get(running.url)
    browser.execute_script("sessionStorage.clear()")
    browser.get(running.url)
    yield browser
    log = browser.get_log("browser")  # type: ignore[no-untyped-call]  # Selenium left its types out
    severe = [line for line in log if line["level"] == "SEVERE"]
    assert [line for line in severe if "401" not in line["message"]] == []


def patient(page: webdriver.Chrome) -> "WebDriverWait[webdriver.Chrome]":
    """Wait for something on a page that draws itself anew meanwhile."""
    return WebDriverWait(page, PATIENCE, ignored_exceptions=[NoSuchElementException, StaleElementReferenceException])


def find(page: webdriver.Chrome, selector: str) -> WebElement:
    return page.find_element(By.CSS_SELECTOR, selector)


def clicked(element: WebElement) -> bool:
    element.click()
    return True


def shown(page: webdriver.Chrome, selector: str) -> WebElement:
    return patient(page).until(lambda _: (e := find(page, selector)).is_displayed() and e)


def sign_in(page: webdriver.Chrome, key: str) -> None:
    shown(page, "#key").send_keys(key)
    find(page, "#key-form button").click()


def cards(page: webdriver.Chrome) -> list[WebElement]:
    return page.find_elements(By.CSS_SELECTOR, "#results > *")


def buttons(card: WebElement) -> list[WebElement]:
    return card.find_elements(By.TAG_NAME, "button")


def test_photos_are_sent_watched_and_each_answer_is_shown(page: webdriver.Chrome, running: Running) -> None:
    sign_in(page, running.key)
    shown(page, "#drop")
    find(page, "#files").send_keys("\n".join(str(path) for path in SAMPLES))

    patient(page).until(lambda _: f"{len(SAMPLES)} of {len(SAMPLES)} accounted for" in page.page_source)
    while (more := find(page, "#more")).is_displayed():
        more.click()
    patient(page).until(lambda _: len(cards(page)) == len(SAMPLES))

    texts = [card.text for card in cards(page)]
    for path, text in zip(SAMPLES, texts, strict=True):
        assert path.name in text
    by_name = dict(zip((path.name for path in SAMPLES), texts, strict=True))
    assert "rejected" in by_name["damaged.jpg"]
    assert "rejected" in by_name["notes.jpg"]
    assert "synthetic" in by_name["photo-01.jpg"]
    assert "%" in by_name["photo-01.jpg"]


def test_the_heat_map_can_be_laid_over_a_photo(page: webdriver.Chrome, running: Running) -> None:
    sign_in(page, running.key)
    shown(page, "#drop")
    find(page, "#files").send_keys(str(SAMPLES[-1]))
    patient(page).until(lambda _: len(cards(page)) == 1)
    [card] = cards(page)
    page.execute_script("arguments[0].scrollIntoView()", card)
    patient(page).until(lambda _: any(i.is_displayed() for i in card.find_elements(By.TAG_NAME, "img")))
    patient(page).until(lambda _: any(b.is_displayed() for b in buttons(card)))
    [button] = [b for b in buttons(card) if b.is_displayed()]
    button.click()
    pictures = "return [...arguments[0].querySelectorAll('img')].filter(i => i.checkVisibility() && i.naturalWidth)"
    patient(page).until(lambda _: len(page.execute_script(pictures, card)) == 2)
    assert button.get_attribute("aria-pressed") == "true"


def test_a_wrong_key_is_refused_in_words(page: webdriver.Chrome) -> None:
    sign_in(page, "pxv_wrong")
    patient(page).until(lambda _: find(page, "#key-error").text)
    assert "no such key" in find(page, "#key-error").text
    assert not find(page, "#drop").is_displayed()


def test_the_research_line_is_always_in_sight(page: webdriver.Chrome, running: Running) -> None:
    assert find(page, ".notice").text == NOTICE
    sign_in(page, running.key)
    shown(page, "#drop")
    page.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    top = page.execute_script("return document.querySelector('.notice').getBoundingClientRect().top")
    assert 0 <= top < 100


def test_nothing_spills_over_the_edge_of_a_phone(page: webdriver.Chrome, running: Running) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        sign_in(page, running.key)
        shown(page, "#drop")
        assert page.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_control_has_a_name_and_photos_have_descriptions(page: webdriver.Chrome, running: Running) -> None:
    sign_in(page, running.key)
    shown(page, "#drop")
    nameless = page.execute_script(
        "return [...document.querySelectorAll('button, input, img, progress')].filter(e => e.checkVisibility()"
        " && !(e.innerText || e.labels?.length || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby')"
        " || e.hasAttribute('alt'))).map(e => e.outerHTML)"
    )
    assert nameless == []


def test_the_list_of_jobs_opens_an_earlier_one(page: webdriver.Chrome, running: Running) -> None:
    sign_in(page, running.key)
    shown(page, "#drop")
    find(page, "#files").send_keys(str(SAMPLES[-2]))
    patient(page).until(lambda _: len(cards(page)) == 1)
    page.refresh()
    patient(page).until(lambda _: clicked(find(page, "#jobs button")))
    patient(page).until(lambda _: SAMPLES[-2].name in find(page, "#results").text)
