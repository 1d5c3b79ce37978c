"""A conversation on the chat page: turns, the answer as it is written, stop, and what it cost.

Two kinds of model, one list of turns. A model with a chat template gets all turns each time and answers; a base model
gets the text and goes on with it, so each turn stands alone and is shown as one text, the person's part paler.

    send -> ChatRequest or CompletionRequest (the API's own, so the same checks) -> Generation -> pieces -> the page

The browser keeps a copy in the tab (page.js), and nobody else does: a reload gives it back to the new page.

A piece a token would be hundreds of page updates a second, so the text is drawn at most every DRAW_SECONDS.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, dataclass, fields
from html import escape
from typing import TYPE_CHECKING, Any

from nicegui import background_tasks, binding, ui

from danlu.serve.generation import Generation, ServedModel, encode_chat, encode_prompts, sampling_for
from danlu.serve.page_markdown import render
from danlu.serve.protocol import ChatRequest, CompletionRequest, Message
from danlu.serve.wire import ApiError

if TYPE_CHECKING:
    from danlu.serve.app import ServerState
    from danlu.serve.page import Words

DRAW_SECONDS = 0.06
KEEP_SECONDS = 1.0  # an answer that is being written is copied to the tab this often
KEPT_BYTES = 1 << 19  # what the page's socket takes in one message is twice this


@binding.bindable_dataclass
class Settings:
    """What the person may turn; the defaults are what `reset` goes back to."""

    model: str
    system: str = ""
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int | None = 512
    seed: int | None = None

    def reset(self) -> None:
        for field in fields(self):
            if field.name != "model":
                setattr(self, field.name, field.default)


@dataclass
class Turn:
    """What was asked and what came; `answer` grows while it is written."""

    prompt: str
    answer: str = ""
    finish: str = ""  # stop, length, cancelled; empty while writing
    tokens: int = 0
    speed: float = 0.0


class Conversation:
    """Lives in the page's main column; `composer` builds its input at the foot of the page."""

    def __init__(self, state: ServerState, settings: Settings, words: Words) -> None:
        self.state, self.settings, self.words = state, settings, words
        self.turns: list[Turn] = []
        self.task: asyncio.Task[None] | None = None
        self.client = ui.context.client
        self.column = ui.element("div").classes("turns").style("display: contents")
        state.at_stop.add(self.stop)
        self.client.on_delete(self._leave)
        self._show_hello()
        if self.client.has_socket_connection:
            background_tasks.create(self._bring_back(), name="bring back")
        else:
            self.client.on_connect(self._bring_back)

    @property
    def served(self) -> ServedModel:
        return self.state.models[self.settings.model]

    # --- the foot of the page ---

    def composer(self) -> None:
        with ui.element("div").classes("composer"):
            self.input = ui.textarea().props('borderless dense autogrow rows=1 input-class="ask" autofocus')
            self.words.bind(self.input, self._name_input)
            self.input.on(
                "keydown",
                self.send,
                # Enter sends; not with Shift, and not while an input method is composing (Enter picks a Chinese word)
                js_handler="""(e) => {
                    if (e.key !== "Enter" || e.shiftKey || e.isComposing || e.keyCode === 229) return;
                    e.preventDefault();
                    emit();
                }""",
            )
            self.button = ui.button(on_click=self._press, color=None).props("unelevated").classes("go")
        self.words.bind(self.button, lambda: self._set_writing(self.task is not None))

    def _name_input(self) -> None:
        text = self.words("ask" if self.served.chat else "continue")
        self.input.props["placeholder"] = text
        self.input.props["aria-label"] = text

    def _set_writing(self, writing: bool) -> None:
        self.button.props(f"icon={'stop' if writing else 'arrow_upward'}")
        self.button.props["aria-label"] = self.words("stop" if writing else "send")
        self.button.props(f"data-state={'stop' if writing else 'send'}")

    def _press(self) -> None:
        if self.task is not None:
            self.stop()
        else:
            self.send()

    # --- what a person does ---

    def send(self, _: Any = None) -> None:
        text = self.input.value or ""
        if self.task is not None or not text.strip():
            return
        self.input.value = ""
        self.ask(text.strip() if self.served.chat else text)

    def ask(self, text: str) -> None:
        if self.task is not None:
            return
        if not self.turns:
            self.column.clear()
        turn = Turn(text)
        self.turns.append(turn)
        with self.column:
            view = TurnView(turn, self.words, chat=self.served.chat)
        ui.run_javascript("danlu.follow()")
        self._keep()
        self._set_writing(True)
        self.task = background_tasks.create(self._write(turn, view), name="answer")

    def stop(self) -> None:
        """Cancel the answer that is being written; the engine's slot is free before its next step."""
        if self.task is not None:
            self.task.cancel()

    def _leave(self) -> None:
        """The tab was closed."""
        self.stop()
        self.state.at_stop.discard(self.stop)

    def clear(self) -> None:
        self.stop()
        self.turns.clear()
        self._keep()
        self.column.clear()
        self._show_hello()
        self._name_input()

    # --- the copy in the tab ---

    def _keep(self) -> None:
        """Copy the conversation to the tab; a very long one is not kept."""
        turns = [asdict(turn) | {"finish": turn.finish or "cancelled"} for turn in self.turns]
        kept = json.dumps({"model": self.settings.model, "system": self.settings.system, "turns": turns})
        self.client.run_javascript(f"danlu.keep({json.dumps(kept if turns and len(kept) <= KEPT_BYTES else '')})")

    async def _bring_back(self) -> None:
        """Show what the tab has kept, unless the person has begun already."""
        try:
            kept = await self.client.run_javascript("danlu.kept()", timeout=5.0)
            found: dict[str, Any] = json.loads(kept) if kept else {"model": "", "system": "", "turns": []}
            model, system, turns = found["model"], found["system"], [Turn(**turn) for turn in found["turns"]]
        except (TimeoutError, ValueError, TypeError, LookupError):
            return  # the tab went away, or keeps something of another version
        if not turns or self.turns or model not in self.state.models:
            return
        self.settings.model, self.settings.system, self.turns = model, system, turns
        self.column.clear()
        with self.column:
            for turn in turns:
                TurnView(turn, self.words, chat=self.served.chat)
        self._name_input()

    # --- the answer ---

    async def _write(self, turn: Turn, view: TurnView) -> None:
        try:
            with await self._generation(turn) as generation:
                try:
                    await self._follow(generation, turn, view)
                finally:
                    turn.tokens, turn.speed = generation.completion_tokens, generation.tokens_per_second
        except asyncio.CancelledError:
            turn.finish = "cancelled"
        except ApiError as error:
            turn.finish = "failed"
            view.problem(self._explain(error))
        except Exception as error:
            turn.finish = "failed"
            self.state.events.emit("failed", path="/", error=repr(error))
            view.problem(type(error).__name__)
        finally:
            self.task = None
            if not self.client.is_deleted and turn in self.turns:
                view.draw()
            if not self.client.is_deleted:
                self._set_writing(False)
                self._keep()

    async def _follow(self, generation: Generation, turn: Turn, view: TurnView) -> None:
        drawn, kept = 0.0, time.perf_counter()
        async for piece in generation.pieces():
            turn.answer += piece.text
            if piece.finish is not None:
                turn.finish = piece.finish
            if time.perf_counter() - drawn > DRAW_SECONDS:
                turn.tokens, turn.speed = generation.completion_tokens, generation.tokens_per_second
                view.draw()
                drawn = time.perf_counter()
                if drawn - kept > KEEP_SECONDS:
                    self._keep()
                    kept = drawn

    async def _generation(self, turn: Turn) -> Generation:
        """The request that the API would have got, with the answer's length cut to what still fits."""
        served, settings = self.served, self.settings
        common: dict[str, Any] = {
            "model": served.name,
            "temperature": float(settings.temperature),
            "top_p": float(settings.top_p),
            "seed": None if settings.seed is None else int(settings.seed),
        }
        request: ChatRequest | CompletionRequest
        if served.chat:
            messages = self._messages(turn)
            prompts = await encode_chat(served, [message.plain() for message in messages])
            request = ChatRequest(messages=messages, **common)
        else:
            prompts = await encode_prompts(served, [turn.prompt])
            request = CompletionRequest(prompt=turn.prompt, **common)  # type: ignore[arg-type]
        room = served.context_length - len(prompts[0])
        if room > 0:
            request.max_tokens = min(int(settings.max_tokens or room), room)
        return self.state.generation(served, prompts, sampling_for(served, prompts, request, None), "page")

    def _messages(self, last: Turn) -> list[Message]:
        said = [("system", self.settings.system)] if self.settings.system.strip() else []
        for turn in self.turns[: self.turns.index(last)]:
            if turn.answer:
                said += [("user", turn.prompt), ("assistant", turn.answer)]
        said.append(("user", last.prompt))
        return [Message(role=role, content=text) for role, text in said]  # type: ignore[arg-type]

    def _explain(self, error: ApiError) -> str:
        if error.code == "context_length_exceeded":
            return self.words("too_long", n=self.served.context_length)
        return error.message

    # --- before the first turn ---

    def _show_hello(self) -> None:
        from danlu.serve.page import LOGO

        kind = "" if self.served.chat else "_base"
        with self.column, ui.element("section").classes("hello"):
            ui.html(LOGO.format("var(--accent)"), sanitize=False)
            with ui.element("h1"):
                self.words.label(f"hello{kind}")
            self.words.label(f"about{kind}")
            with ui.element("div").classes("tries"):
                for number in (1, 2, 3):
                    self._try(f"try{kind}_{number}")

    def _try(self, key: str) -> None:
        button = ui.element("button").classes("try").props("type=button")
        if not self.served.chat:
            button.classes("mono")
        with button:
            self.words.label(key)
        button.on("click", lambda: self.ask(self.words(key)))


class TurnView:
    """A turn on the page."""

    def __init__(self, turn: Turn, words: Words, *, chat: bool) -> None:
        self.turn, self.words, self.chat = turn, words, chat
        if chat:
            with ui.element("div").classes("turn user"), ui.element("div").classes("bubble"):
                ui.label(turn.prompt)
        with ui.element("article").classes("turn model") as self.article:
            self.body = ui.html("", sanitize=True).classes("answer" if chat else "continued")
            self.below = ui.element("div").classes("below")
        with self.below:
            self.copy = ui.button(icon="content_copy", on_click=self._copy, color=None).props("flat data-tool=copy")
            self.copied = False
            self._name_copy = self.words.name(self.copy, lambda: "copied" if self.copied else "copy")
            self.finish = ui.label().props("data-meta=finish")
            self.tokens = ui.label().classes("dot").props("data-meta=tokens")
            self.speed = ui.label().classes("dot").props("data-meta=speed")
        words.bind(self.article, self.draw)

    def draw(self) -> None:
        """Bring the page to what the turn says now."""
        turn = self.turn
        if self.chat:
            self.body.content = render(turn.answer)
        else:
            given, made = escape(turn.prompt), escape(turn.answer)
            self.body.content = f'<span class="given">{given}</span><span class="made">{made}</span>'
        self.body.classes(**({"add": "writing"} if not turn.finish else {"remove": "writing"}))
        self.below.set_visibility(bool(turn.finish))
        known = turn.finish in ("stop", "length", "cancelled")
        self.finish.set_text(self.words(f"finish_{turn.finish}") if known else "")
        self.tokens.set_text(self.words("tokens", n=turn.tokens))
        self.speed.set_text(self.words("speed", x=f"{turn.speed:.1f}") if turn.speed else "")
        self.speed.set_visibility(bool(turn.speed))

    def problem(self, message: str) -> None:
        with self.article:
            with ui.element("div").classes("problem").props("role=alert"):
                with ui.element("b"):
                    self.words.label("failed")
                ui.label(message)
        self.below.set_visibility(False)

    def _copy(self) -> None:
        text = self.turn.answer if self.chat else self.turn.prompt + self.turn.answer
        ui.run_javascript(f"danlu.copy({json.dumps(text)})")
        self._show_copied(True)
        with self.below:
            ui.timer(1.2, lambda: self._show_copied(False), once=True)

    def _show_copied(self, copied: bool) -> None:
        self.copied = copied
        self.copy.props(f"icon={'check' if copied else 'content_copy'}")
        self._name_copy()
