"""The chat page in a real browser: a person talks to a model, stops it, changes language and theme."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.serve import tiny

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs a browser: apt-get install chromium chromium-driver"),
]


class Browser:
    """Chromium with the few verbs the tests need; everything waits with a deadline."""

    def __init__(self, language: str = "en-US") -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,860"):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"intl.accept_languages": language})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def open(self, url: str, *, ready: str = ".ask") -> None:
        self.driver.get(url)
        self.wait_for(ready)
        self.wait_for("html[data-connected]")

    def find(self, selector: str) -> list[WebElement]:
        """What is shown at a selector; nothing when the page changed while it was looked at."""
        try:
            found = self.driver.find_elements(By.CSS_SELECTOR, selector)
            return [element for element in found if element.is_displayed()]
        except StaleElementReferenceException:
            return []

    def wait_for(self, selector: str) -> WebElement:
        found: list[WebElement] = tiny.until(lambda: self.find(selector))
        return found[-1]

    def text(self, selector: str) -> str:
        """The texts shown at a selector, read at one moment."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('|')"
        return str(self.driver.execute_script(script, selector))

    def tool(self, name: str) -> WebElement:
        return self.wait_for(f"[data-tool={name}]")

    def type(self, text: str, *, send: bool = True) -> None:
        area = self.wait_for(".ask")
        area.send_keys(text)
        if send:
            area.send_keys(Keys.ENTER)

    def type_into(self, selector: str, text: str) -> None:
        box = self.wait_for(selector)
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text, Keys.ENTER)

    def finished(self, answers: int) -> str:
        """Wait until this many answers have ended; how the last one did."""
        tiny.until(lambda: sum(bool(part) for part in self.text("[data-meta=finish]").split("|")) >= answers)
        return self.text("[data-meta=finish]").split("|")[-1]

    def problems(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def hosts(self) -> set[str]:
        """Every host that was asked for anything, web sockets too, since the last call."""
        requested: list[str] = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                requested.append(message["params"]["request"]["url"])
            if message["method"] == "Network.webSocketCreated":
                requested.append(message["params"]["url"])
        return {urlsplit(url).hostname or "" for url in requested if urlsplit(url).scheme not in ("data", "blob")}


@pytest.fixture(scope="module")
def url(model_paths: dict[str, Path]) -> Iterator[str]:
    # On torch, so that a long answer outlasts the seconds for which a page that is gone may come back.
    with tiny.Process(model_paths, DANLU_KERNELS="off") as process:
        yield process.url


@pytest.fixture(scope="module")
def driver() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(driver: Browser, url: str) -> Iterator[Browser]:
    driver.driver.delete_all_cookies()
    driver.open(url)
    yield driver
    assert driver.problems() == []
    assert driver.hosts() <= {"127.0.0.1"}


def set_longest(browser: Browser, tokens: int) -> None:
    """Through the settings, as a person does: greedy, and this many tokens."""
    browser.tool("settings").click()
    browser.wait_for("[data-setting=temperature] .q-slider")
    browser.driver.execute_script("document.querySelector('[data-setting=temperature] [tabindex]').focus()")

    def at_zero() -> bool:
        webdriver.ActionChains(browser.driver).send_keys(Keys.LEFT).perform()
        return browser.text("[data-setting=temperature] output") == "0"

    tiny.until(at_zero)
    box = browser.wait_for("[data-setting=max_tokens] input")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(str(tokens), Keys.TAB)


def test_a_conversation_streams_and_says_what_it_cost(browser: Browser, url: str) -> None:
    set_longest(browser, 2000)  # long enough to be looked at, on a fast engine too
    asked = tiny.metric(url, "danlu_requests_total", endpoint="page")
    browser.type("明月 <img src=x onerror='window.hacked=1'>")
    lengths: list[int] = []

    def grown() -> bool:
        lengths.append(len(browser.text(".answer")))
        return bool(browser.text("[data-meta=finish]"))

    tiny.until(grown)
    assert len({length for length in lengths if length}) > 2, "the answer must be seen growing"
    assert browser.text(".bubble") == "明月 <img src=x onerror='window.hacked=1'>"
    assert browser.driver.execute_script("return window.hacked") is None
    assert browser.text("[data-meta=finish]") in ("complete", "length limit")
    assert browser.text("[data-meta=tokens]").endswith(" tokens")
    assert "tokens/s" in browser.text("[data-meta=speed]")
    assert tiny.metric(url, "danlu_requests_total", endpoint="page") == asked + 1
    browser.type("And now?")
    browser.finished(2)
    assert len(browser.find(".bubble")) == 2
    browser.tool("new").click()
    tiny.until(lambda: not browser.find(".bubble"))
    browser.wait_for(".hello")


def test_stop_ends_the_answer_and_frees_its_slot(browser: Browser, url: str) -> None:
    set_longest(browser, 8000)
    browser.type("x")
    browser.wait_for(".go[data-state=stop]")
    tiny.until(lambda: tiny.metric(url, "danlu_requests_running", model="tiny") == 1)
    tiny.until(lambda: browser.text(".answer"))
    browser.wait_for(".go[data-state=stop]").click()
    assert browser.finished(1) == "stopped"
    tiny.until(lambda: tiny.metric(url, "danlu_requests_running", model="tiny") == 0)
    browser.wait_for(".go[data-state=send]")
    kept = browser.text(".answer")
    browser.type("again")
    browser.wait_for(".go[data-state=stop]").click()
    browser.finished(2)
    assert kept in browser.text(".answer")


def test_closing_the_tab_frees_its_slot(browser: Browser, url: str) -> None:
    set_longest(browser, 8000)
    browser.type("x")
    tiny.until(lambda: tiny.metric(url, "danlu_requests_running", model="tiny") == 1)
    before = tiny.metric(url, "danlu_requests_total", endpoint="page", outcome="cancelled")
    browser.driver.get("about:blank")
    tiny.until(lambda: tiny.metric(url, "danlu_requests_total", endpoint="page", outcome="cancelled") == before + 1)
    assert tiny.metric(url, "danlu_requests_running", model="tiny") == 0
    browser.open(url)


def test_a_reload_keeps_the_conversation(browser: Browser, url: str) -> None:
    set_longest(browser, 20)
    browser.type("明月 <b>")
    browser.finished(1)
    browser.type("And now?")
    browser.finished(2)
    said = browser.text(".answer"), browser.text(".bubble"), browser.text("[data-meta=tokens]")
    browser.driver.refresh()
    tiny.until(lambda: len(browser.find(".bubble")) == 2)
    assert (browser.text(".answer"), browser.text(".bubble"), browser.text("[data-meta=tokens]")) == said
    browser.type("Third")
    browser.finished(3)
    browser.tool("new").click()
    tiny.until(lambda: not browser.find(".bubble"))
    browser.driver.refresh()
    browser.wait_for(".hello")
    browser.wait_for("html[data-connected]")
    browser.type("alone")
    browser.finished(1)
    assert browser.text(".bubble") == "alone", "what was cleared does not come back"
    browser.open(url)
    browser.wait_for(".hello")


def test_a_reload_keeps_the_model_and_what_was_written_so_far(browser: Browser, url: str) -> None:
    set_longest(browser, 8000)
    browser.wait_for(".model-select").click()
    tiny.until(lambda: [item for item in browser.find(".q-menu .q-item") if item.text == "base"])[0].click()
    tiny.until(lambda: "continues your text" in browser.text(".hello"))
    browser.type("床前")
    kept = "return JSON.parse(sessionStorage.getItem('danlu_conversation') || '{}').turns?.[0].answer"
    tiny.until(lambda: browser.driver.execute_script(kept))
    browser.driver.refresh()
    tiny.until(lambda: "床前" in browser.text(".continued"))
    assert browser.text("[data-meta=finish]") in ("stopped", "complete", "length limit")
    assert browser.text(".model-select").startswith("base")
    assert len(browser.text(".continued .made")) > 0
    tiny.until(lambda: tiny.metric(url, "danlu_requests_running", model="base") == 0)


def test_language_switches_in_place_and_is_remembered(browser: Browser, url: str) -> None:
    set_longest(browser, 5)
    browser.type("hello")
    browser.finished(1)
    assert browser.tool("language").text == "中文"
    browser.tool("language").click()
    tiny.until(lambda: browser.tool("language").text == "English")
    assert browser.wait_for(".ask").get_attribute("placeholder") == "想问什么？"
    assert browser.text("[data-meta=tokens]").endswith(" 词元")
    assert browser.text(".bubble") == "hello", "the conversation stays"
    assert browser.tool("settings").get_attribute("aria-label") == "设置"
    browser.open(url)
    assert browser.wait_for(".hello h1").text == "想聊点什么？"
    assert browser.driver.execute_script("return document.documentElement.lang") == "zh"


def test_theme_follows_the_system_until_it_is_chosen(browser: Browser, url: str) -> None:
    def dark() -> bool:
        return "body--dark" in str(browser.driver.execute_script("return document.body.className"))

    def system(scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    system("dark")
    tiny.until(dark)
    browser.tool("theme").click()  # auto -> light
    tiny.until(lambda: not dark())
    browser.open(url)
    tiny.until(lambda: not dark())
    browser.tool("theme").click()  # light -> dark
    system("light")
    tiny.until(dark)
    paper = browser.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(23, 20, 18)"


def test_a_base_model_continues_the_text(browser: Browser) -> None:
    set_longest(browser, 30)
    browser.wait_for(".model-select").click()
    tiny.until(lambda: [item for item in browser.find(".q-menu .q-item") if item.text == "base"])[0].click()
    tiny.until(lambda: "continues your text" in browser.text(".hello"))
    browser.type("<b>床前</b>")
    browser.finished(1)
    assert browser.text(".continued").startswith("<b>床前</b>")
    assert len(browser.text(".continued .made")) > 0
    assert not browser.find(".bubble")


def test_enter_that_picks_a_word_in_an_input_method_does_not_send(browser: Browser) -> None:
    browser.type("ni hao", send=False)
    browser.driver.execute_script(
        """document.querySelector(".ask").dispatchEvent(
            new KeyboardEvent("keydown", {key: "Enter", bubbles: true, isComposing: true}))"""
    )
    browser.wait_for(".ask").send_keys(Keys.SHIFT, Keys.ENTER)
    browser.wait_for(".ask").send_keys("x")
    tiny.until(lambda: browser.wait_for(".ask").get_attribute("value") == "ni hao\nx")
    assert not browser.find(".bubble")


def test_a_conversation_that_no_longer_fits_says_so(browser: Browser) -> None:
    area = browser.wait_for(".ask")
    browser.driver.execute_script(
        """const area = arguments[0];
        Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(area, "明 ".repeat(9000));
        area.dispatchEvent(new Event("input", {bubbles: true}));""",
        area,
    )
    area.send_keys(Keys.ENTER)
    assert str(tiny.CONTEXT) in browser.wait_for(".problem").text
    browser.wait_for(".go[data-state=send]")


def test_nothing_may_be_fetched_from_elsewhere(browser: Browser, url: str) -> None:
    policy = httpx.get(url).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    blocked = browser.driver.execute_async_script(
        """const done = arguments[0];
        document.addEventListener("securitypolicyviolation", (e) => done(e.blockedURI), {once: true});
        document.body.append(Object.assign(new Image(), {src: "http://example.invalid/x.png"}));"""
    )
    assert blocked.startswith("http://example.invalid")
    assert any("example.invalid" in message for message in browser.problems())
    assert browser.hosts() == {"127.0.0.1", "example.invalid"}, "the browser's log names what it blocked, too"


def test_a_key_is_asked_for_and_remembered_in_the_tab(driver: Browser, model_paths: dict[str, Path]) -> None:
    with tiny.Process({"tiny": model_paths["tiny"]}, key="open sesame") as process:
        driver.open(process.url, ready=".door input")
        assert "tiny" not in driver.driver.page_source, "nothing is told before the key"
        driver.type_into(".door input", "wrong")
        tiny.until(lambda: "not the key" in driver.text(".door"))
        driver.type_into(".door input", "open sesame")
        driver.wait_for(".ask")
        driver.open(process.url)
        driver.type("hello")
        driver.finished(1)
        driver.driver.refresh()
        tiny.until(lambda: driver.text(".bubble") == "hello")
    driver.driver.get("about:blank")
    driver.problems()


def test_the_first_page_speaks_the_language_of_the_browser(url: str) -> None:
    for header, word in (("zh-CN,zh;q=0.9", "想聊点什么"), ("en", "What shall we talk about")):
        page: Any = httpx.get(url, headers={"accept-language": header})
        assert word in page.text or word in page.text.encode().decode("unicode_escape", "ignore")
