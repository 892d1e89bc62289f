"""A headless Chromium that shows the page of task=serve."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1300,1000"),
)

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver, which are not installed"
)


class Visitor:
    """A browser that shows the page."""

    def __init__(self, address: str, folder: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, f"--user-data-dir={folder}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        self.browser = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.address = address
        self.browser.get(address)
        self.until(lambda: self.all("#photograph input[type=file]"))

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def until(self, found: Callable[[], Any], seconds: float = 60) -> Any:
        return WebDriverWait(self.browser, seconds, 0.1, [StaleElementReferenceException]).until(lambda _: found())

    def send(self, path: Path) -> None:
        """Give a file, in the place of an earlier one."""
        for button in self.all("#photograph button[aria-label=Clear]"):
            button.click()
        self.until(lambda: self.all("#photograph input[type=file]"))
        self.one("#photograph input[type=file]").send_keys(str(path))

    def choose(self, box: str, text: str) -> None:
        """An entry of a dropdown menu."""
        self.one(f"#{box} input").click()
        entries = self.until(lambda: [o for o in self.all("ul[role=listbox] li") if text in o.text])
        entries[0].click()

    def message(self) -> str:
        """What a pop-up says, which is then closed."""
        text: str = self.until(lambda: [toast.text for toast in self.all(".toast-body") if toast.text])[0]
        for button in self.all(".toast-close"):
            button.click()
        self.until(lambda: not self.all(".toast-body"))
        return text

    def restore(self) -> tuple[np.ndarray, np.ndarray]:
        """Press the button; what the two halves of the comparison show."""
        self.one("#go").click()
        self.until(lambda: " from " in self.one("#report").text)
        images = self.until(lambda: [image.get_attribute("src") for image in self.all("#comparison img")])
        before, after = (np.asarray(Image.open(io.BytesIO(httpx.get(at, trust_env=False).content))) for at in images)
        return before, after

    def asked_hosts(self) -> set[str]:
        """Hosts that the page has asked for anything."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        asked = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        # Not those of the empty page that the browser starts with.
        urls = [one["request"]["url"] for one in asked if one["documentURL"].startswith(self.address)]
        return {url.split("/")[2] for url in urls if url.startswith(("http", "ws"))}
