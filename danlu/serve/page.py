"""The chat page: the frame around a conversation (bar, settings, language, theme, key), on NiceGUI.

NiceGUI keeps the page's state here in Python, one `Page` for each open tab, and sends only changes to the browser. It
brings its own scripts and fonts: nothing is fetched from anywhere but this server, and the Content-Security-Policy
(app.py) would not allow it. Language and theme are remembered in cookies so that the first bytes are already right;
nothing is stored on the server's disk. A conversation is kept in the browser's tab alone, for a reload.

What a person types takes the API's path (`generation`), in this process. When the server has API keys the page asks for
one before it shows a model, and is as closed as the API.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from nicegui import app as nicegui_app
from nicegui import ui

from danlu.serve.page_conversation import Conversation, Settings
from danlu.serve.page_text import LANGUAGES, TEXTS, preferred_language

if TYPE_CHECKING:
    from danlu.serve.app import ServerState

LOGO = """<svg viewBox="0 0 32 32" fill="none" stroke="{0}" stroke-width="2.3" stroke-linecap="round">
<path d="M7.2 13.2h17.6l-1.5 7.9a5.4 5.4 0 0 1-5.3 4.3h-4a5.4 5.4 0 0 1-5.3-4.3z" fill="{0}" stroke-linejoin="round"/>
<path d="M11 25.4 9.6 29M21 25.4l1.4 3.6M5.6 13.2v-3M26.4 13.2v-3"/>
<path d="M16 9.6c-2-1.6-1.9-3.2-.7-4.6.9-1 1-1.9.5-3 2.9 1.2 4.3 4.8.2 7.6z" fill="{0}" stroke-width="1"/></svg>"""
THEMES: dict[str, tuple[bool | None, str]] = {  # name -> NiceGUI's value, icon
    "auto": (None, "contrast"),
    "light": (False, "light_mode"),
    "dark": (True, "dark_mode"),
}


def add_page(app: FastAPI, state: ServerState) -> None:
    """Mount NiceGUI with the chat page at `/` of the app."""

    @ui.page("/", title="danlu 丹炉")
    def chat_page(request: Request) -> None:
        Page(state, request).build()

    nicegui_app.on_exception(lambda error: state.events.emit("failed", path="/", error=repr(error)))
    ui.run_with(
        app,
        title="danlu 丹炉",
        favicon=LOGO.format("#b23a24").replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"'),
        dark=None,
        tailwind=False,
        show_welcome_message=False,
        reconnect_timeout=3.0,
        binding_refresh_interval=None,  # every binding here tells of its changes; nothing has to be polled
    )


@cache
def asset(name: str) -> str:
    return (files("danlu.serve") / "assets" / name).read_text(encoding="utf-8")


class Words:
    """The page's language: everything with words is registered once and said again when the language changes."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._say: list[tuple[ui.element, Callable[[], Any]]] = []

    def __call__(self, key: str, **values: Any) -> str:
        return TEXTS[self.language][key].format(**values)

    def bind(self, owner: ui.element, say: Callable[[], Any]) -> None:
        """Call `say` now and after each change of language, as long as `owner` is on the page."""
        self._say.append((owner, say))
        say()

    def label(self, key: str) -> ui.label:
        label = ui.label()
        self.bind(label, lambda: label.set_text(self(key)))
        return label

    def button(self, key: str, action: Callable[[], Any]) -> ui.button:
        button = ui.button(on_click=lambda: action(), color=None).props("flat no-caps")
        self.bind(button, lambda: button.set_text(self(key)))
        return button

    def name(self, element: ui.element, key: Callable[[], str] | str) -> Callable[[], None]:
        """A tooltip, which is also what a screen reader says. Call what is returned when `key` says something new."""
        with element:
            tip = ui.tooltip().props("delay=500")

        def say() -> None:
            text = self(key if isinstance(key, str) else key())
            tip.set_text(text)
            element.props["aria-label"] = text

        self.bind(element, say)
        return say

    def switch(self) -> str:
        names = list(LANGUAGES)
        self.language = names[(names.index(self.language) + 1) % len(names)]
        self._say = [(owner, say) for owner, say in self._say if not owner.is_deleted]
        for _, say in self._say:
            say()
        return self.language


class Page:
    """One open tab."""

    def __init__(self, state: ServerState, request: Request) -> None:
        self.state = state
        wanted = request.cookies.get("danlu_language", "")
        language = wanted if wanted in TEXTS else preferred_language(request.headers.get("accept-language", ""))
        self.words = Words(language)
        theme = request.cookies.get("danlu_theme", "auto")
        self.theme = theme if theme in THEMES else "auto"
        self.dark = ui.dark_mode(THEMES[self.theme][0])
        self.settings = Settings(model=next(iter(state.models)))

    def build(self) -> None:
        ui.add_head_html(f"<style>{asset('page.css')}</style><script>{asset('page.js')}</script>")
        ui.query("html").props(f"lang={self.words.language}")
        ui.colors(primary="#b23a24", dark="#221e1b", dark_page="#171412")
        # From here on what a person does is heard: before the socket is there a click would be lost.
        client = ui.context.client
        client.on_connect(lambda: client.run_javascript("document.documentElement.dataset.connected = 'yes'"))
        if self.state.config.api_keys:
            self._door()
        else:
            self._rooms()

    # --- the key ---

    def _door(self) -> None:
        with ui.element("main").classes("door") as door:
            ui.html(LOGO.format("var(--accent)"), sanitize=False)
            self.words.label("locked")
            key = ui.input().props('outlined type=password autocomplete="current-password"')
            self.words.bind(key, lambda: key.props(f'label="{self.words("key")}"'))
            button = self.words.button("unlock", lambda: opened()).classes("open")

        def enter(given: str) -> bool:
            if not given or not self.state.config.key_is_valid(given):
                return False
            door.delete()
            self._rooms()
            return True

        async def opened() -> None:
            given = str(key.value or "")
            button.disable()
            await asyncio.sleep(0.5)  # makes guessing slow
            if door.is_deleted:
                return  # Enter twice
            button.enable()
            with client:
                if enter(given):
                    ui.run_javascript(f"danlu.setKey({json.dumps(given)})")
                else:
                    key.props(f'error error-message="{self.words("wrong_key")}"')

        async def remembered() -> None:
            if door.is_deleted:
                return  # a reconnection
            given = await ui.run_javascript("danlu.getKey()")
            with client.content:
                enter(str(given))

        client = ui.context.client
        key.on("keydown.enter", opened)
        client.on_connect(remembered)

    # --- the rooms behind it ---

    def _rooms(self) -> None:
        with ui.element("main").classes("thread"):
            self.conversation = Conversation(self.state, self.settings, self.words)
        drawer = ui.right_drawer(value=False, fixed=True, bottom_corner=True).props("width=330 breakpoint=1100")
        with drawer.classes("side"):
            self._settings(drawer)
        with ui.header().classes("bar"), ui.element("div").classes("bar-row"):
            self._bar(drawer)
        with ui.footer().classes("dock"), ui.element("div").classes("dock-in"):
            self.conversation.composer()

    def _bar(self, drawer: ui.right_drawer) -> None:
        with ui.element("div").classes("brand"):
            ui.html(LOGO.format("var(--accent)"), sanitize=False)
            ui.html('<span class="word">danlu</span> <small>丹炉</small>', sanitize=False)
        names = list(self.state.models)
        if len(names) == 1:
            ui.label(names[0]).classes("model-name")
        else:
            select = ui.select(names, on_change=self._choose_model).bind_value_from(self.settings, "model")
            select.props("borderless dense options-dense").classes("model-select")
            self.words.bind(select, lambda: select.props(f'aria-label="{self.words("model")}"'))
        ui.element("div").classes("grow")
        self._tool("add", "new", self.conversation.clear)
        self.words.button("language", self._switch_language).classes("tool words").props("data-tool=language")
        self._theme_button()
        self._tool("tune", "settings", drawer.toggle)

    def _tool(self, icon: str, key: str, action: Callable[[], Any]) -> None:
        button = ui.button(icon=icon, on_click=lambda: action(), color=None).props(f"flat data-tool={key}")
        self.words.name(button.classes("tool"), key)

    def _theme_button(self) -> None:
        button = ui.button(icon=THEMES[self.theme][1], color=None).props("flat data-tool=theme").classes("tool")
        say = self.words.name(button, lambda: f"theme_{self.theme}")

        def switch() -> None:
            names = list(THEMES)
            self.theme = names[(names.index(self.theme) + 1) % len(names)]
            self.dark.value, icon = THEMES[self.theme]
            button.props(f"icon={icon}")
            say()
            ui.run_javascript(f"danlu.remember('theme', '{self.theme}')")

        button.on_click(switch)

    def _choose_model(self, event: Any) -> None:
        if event.value == self.settings.model:
            return  # a conversation came back with its model
        self.settings.model = event.value
        self.conversation.clear()

    def _switch_language(self) -> None:
        language = self.words.switch()
        ui.query("html").props(f"lang={language}")
        ui.run_javascript(f"danlu.remember('language', '{language}'); document.documentElement.lang = '{language}'")

    # --- settings ---

    def _settings(self, drawer: ui.right_drawer) -> None:
        with ui.element("div").classes("side-head"):
            with ui.element("h2"):
                self.words.label("settings")
            self._tool("close", "close", drawer.hide)
        settings = self.settings
        with self._setting("system", hint=True):
            system = ui.textarea().props("filled autogrow dense").bind_value(settings, "system")
            system.props('input-style="max-height: 180px"')
        with self._setting("temperature", hint=True, shows="temperature"):
            ui.slider(min=0, max=2, step=0.05).bind_value(settings, "temperature")
        with self._setting("top_p", hint=True, shows="top_p"):
            ui.slider(min=0.05, max=1, step=0.05).bind_value(settings, "top_p")
        with self._setting("max_tokens"):
            ui.number(min=1, step=1, precision=0, format="%d").props("filled dense").bind_value(settings, "max_tokens")
        with self._setting("seed", hint=True):
            ui.number(step=1, precision=0, format="%d").props("filled dense clearable").bind_value(settings, "seed")
        self.words.button("reset", settings.reset).classes("plain")

    def _setting(self, key: str, *, hint: bool = False, shows: str | None = None) -> ui.element:
        block = ui.element("div").classes("setting").props(f"data-setting={key}")
        with block:
            with ui.element("div").classes("setting-head"):
                self.words.label(key)
                if shows is not None:
                    with ui.element("output"):
                        ui.label().bind_text_from(self.settings, shows, lambda value: f"{value:g}")
            if hint:
                self.words.label(f"{key}_hint").classes("hint")
        return block
