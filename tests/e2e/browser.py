"""A real Chromium for the tests of pages: the machine's own, or Debian's package where this user may install it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

INSTALL_SECONDS = 600
# Without the background flags Chromium looks for hosts outside at every start.
FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1000",
)


def _install() -> None:
    apt = shutil.which("apt-get")
    if os.geteuid() != 0 or apt is None:
        pytest.skip("no Chromium here, and only root can install Debian's")
    variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", "chromium", "chromium-driver"]):
        done = subprocess.run(
            [apt, "-qq", *words], env=variables, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"Chromium could not be installed: apt-get {words[0]}: {done.stderr.strip()[-200:]}")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Return a headless Chromium with an empty profile."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        _install()
    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's own sandbox refuses to run as root
    driver = webdriver.Chrome(options=options, service=Service(str(Path(str(shutil.which("chromedriver"))))))
    yield driver
    driver.quit()
