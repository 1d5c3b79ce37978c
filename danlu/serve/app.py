"""The HTTP surface: routes, keys, limits, and an OpenAI error body for whatever goes wrong.

    GET  /v1/models, /v1/models/NAME           API key, when the server has keys
    POST /v1/completions, /v1/chat/completions API key, when the server has keys
    POST /v1/embeddings                        API key, when the server has keys
    GET  /health, /metrics                     open: they hold no text of any request
    GET  /                                     the chat page (page.py), which asks for the key itself

Every error is `{"error": {"message", "type", "param", "code"}}` with the status OpenAI uses. What went wrong inside
goes to the event log under the request's id (`x-request-id`, the client's own when it sends one); the client gets the
id and no traceback.

Two doors are shut that a server on 127.0.0.1 often leaves open to the web pages its user visits: a request must name a
host this server answers for (DNS rebinding), and a POST must be `application/json` (which a page of another origin
cannot send without asking first, and nobody answers).
"""

from __future__ import annotations

import asyncio
import hmac
import importlib.util
import json
import re
import traceback
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from danlu.core.errors import UserError, suggest
from danlu.core.events import Events
from danlu.serve import MAX_WAITING
from danlu.serve import metrics as metrics_module
from danlu.serve.completions import Answer, ChatAnswer, CompletionAnswer
from danlu.serve.embeddings import EmbeddingAnswer, EmbeddingRequest, embedding_sampling
from danlu.serve.generation import (
    Generation,
    ServedModel,
    echo_of,
    encode_chat,
    encode_prompts,
    prepare,
    sampling_for,
)
from danlu.serve.protocol import ChatRequest, CompletionRequest, GenerationRequest, ModelCard, ModelList
from danlu.serve.sse import ClientGone, EventStream, while_connected
from danlu.serve.wire import ApiError, parse_request
from danlu.serve.worker import EngineWorker

if TYPE_CHECKING:
    from danlu.engine import Engine, Replicas

# Under /v1/, for 405.
METHODS = {"models": "GET", "completions": "POST", "chat/completions": "POST", "embeddings": "POST"}
# The page may run NiceGUI's scripts (Vue compiles templates: unsafe-eval) and reach this server, and nothing else.
SAFETY_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ServerConfig(BaseModel):
    """What the operator decides. Keys are compared in constant time and never logged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_keys: tuple[str, ...] = ()  # none: open to whoever reaches the port
    max_body_bytes: int = Field(default=8 << 20, ge=1)
    body_seconds: float = Field(default=30.0, gt=0)  # a client must have sent its body by then
    max_waiting: int = Field(default=MAX_WAITING, ge=0)  # choices that may wait beyond those running; then 503
    drain_seconds: float = Field(default=30.0, ge=0)  # running requests may take this long at shutdown
    allowed_hosts: tuple[str, ...] | None = None  # names this server answers for; None: any
    page: bool = True  # the chat page at /

    def key_is_valid(self, key: str) -> bool:
        """True when there are no keys, or `key` is one of them. Takes the same time for each wrong key."""
        matches = [hmac.compare_digest(key.encode(), one.encode()) for one in self.api_keys]
        return not self.api_keys or any(matches)


class ServerState:
    """What the routes and the page share: the models, the counters, the log."""

    def __init__(self, engines: Mapping[str, Engine | Replicas], config: ServerConfig, events: Events) -> None:
        if not engines:
            raise UserError("there is no model to serve", "name at least one")
        self.config, self.events = config, events
        self.models: dict[str, ServedModel] = {}
        for name, engine in engines.items():
            worker = EngineWorker(name, engine, max_waiting=config.max_waiting, events=events)
            self._add(ServedModel(name, engine, worker))
            for adapter in engine.adapters.names:
                self._add(ServedModel(adapter, engine, worker, parent=name))
        self.bases = [served for served in self.models.values() if served.parent is None]
        self.metrics = metrics_module.Metrics(self.bases)
        self.at_stop: set[Callable[[], None]] = set()  # what to end first: the answers on open pages

    def _add(self, served: ServedModel) -> None:
        if served.name in self.models:
            raise UserError(f'two models or adapters would be served as "{served.name}"', "give them other names")
        self.models[served.name] = served

    def find(self, name: str) -> ServedModel:
        if name not in self.models:
            message = f'the model "{name}" is not served here; {suggest(name, self.models)}'
            raise ApiError(404, message, param="model", code="model_not_found")
        return self.models[name]

    def generation(
        self,
        served: ServedModel,
        prompts: list[list[int]],
        sampling: Any,
        endpoint: str,
        priority: int = 0,
        echo: list[str] | None = None,
        **tags: Any,
    ) -> Generation:
        return Generation(
            served,
            prompts,
            sampling,
            metrics=self.metrics,
            events=self.events,
            endpoint=endpoint,
            priority=priority,
            echo=echo,
            tags=tags,
        )

    def start(self) -> None:
        for served in self.bases:
            served.worker.start()

    async def stop(self) -> None:
        """Let running requests finish within the time limit, then end the threads."""
        for end in list(self.at_stop):
            end()
        workers = [served.worker for served in self.bases]
        await asyncio.gather(*(worker.drain(self.config.drain_seconds) for worker in workers))
        for worker in workers:
            await asyncio.to_thread(worker.close)


def create_app(
    models: Mapping[str, Engine | Replicas], config: ServerConfig | None = None, *, events: Events | None = None
) -> FastAPI:
    """The application for loaded engines by name. The chat page lives once in a process (NiceGUI is a singleton)."""
    config = config or ServerConfig()
    state = ServerState(models, config, events or Events())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.start()
        yield
        await state.stop()

    app = FastAPI(title="danlu", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.danlu = state
    app.include_router(_api(state))
    app.include_router(_open_routes(state))
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    if config.page:
        _add_page(app, state)
    app.add_middleware(_Guard, state=state)
    return app


# --- routes ---------------------------------------------------------------------------------------------------------


def _api(state: ServerState) -> APIRouter:
    """Everything under /v1, behind the key."""

    async def authorize(request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if state.config.api_keys and (scheme.lower() != "bearer" or not state.config.key_is_valid(key.strip())):
            problem = "the API key is wrong" if key else "no API key was sent"
            message = f"{problem}; send it in the header: Authorization: Bearer KEY"
            raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    router = APIRouter(prefix="/v1", dependencies=[Depends(authorize)])

    @router.get("/models")
    async def models() -> Response:
        return _json(ModelList(data=[_card(served) for served in state.models.values()]))

    @router.get("/models/{name:path}")
    async def model(name: str) -> Response:
        return _json(_card(state.find(name)))

    @router.post("/completions")
    async def completions(request: Request) -> Response:
        return await _answer(state, request, CompletionRequest, CompletionAnswer)

    @router.post("/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _answer(state, request, ChatRequest, ChatAnswer)

    @router.post("/embeddings")
    async def embeddings(request: Request) -> Response:
        return await _embed(state, request)

    @router.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    async def nothing_here(request: Request, path: str) -> Response:
        allowed = METHODS.get("models" if path.startswith("models/") else path.rstrip("/"))
        if allowed is not None and request.method != allowed:
            raise _wrong_method(request, allowed)
        raise _not_found(request)

    return router


def _open_routes(state: ServerState) -> APIRouter:
    router = APIRouter()

    @router.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Response:
        status = {name: served.worker.failure or "ok" for name, served in state.models.items()}
        failed = any(served.worker.failure for served in state.models.values())
        body = {"status": "failed" if failed else "ok", "models": status}
        return JSONResponse(body, status_code=503 if failed else 200)

    @router.api_route("/metrics", methods=["GET", "HEAD"])
    async def metrics() -> Response:
        return Response(state.metrics.text(), media_type=metrics_module.CONTENT_TYPE)

    return router


async def _answer(
    state: ServerState, request: Request, request_class: type[GenerationRequest], answer_class: type[Answer]
) -> Response:
    """The walk of a request, the same for both endpoints that generate."""
    asked = parse_request(request_class, await _read_body(request, state.config))
    served = state.find(asked.model)
    echo = None
    if isinstance(asked, ChatRequest):
        tools = [] if asked.tool_choice == "none" else [tool.plain() for tool in asked.tools]
        prompts = await encode_chat(served, [message.plain() for message in asked.messages], tools)
        default_max_tokens = None
    else:
        assert isinstance(asked, CompletionRequest)
        prompts = await encode_prompts(served, asked.prompt)
        default_max_tokens = asked.DEFAULT_MAX_TOKENS
        echo = echo_of(served, asked.prompt) if asked.echo else None
    sampling = sampling_for(served, prompts, asked, default_max_tokens)
    await prepare(served, sampling, asked)
    tags = _tags(request, asked)
    generation = state.generation(served, prompts, sampling, request.url.path, asked.priority, echo, **tags)
    answer = answer_class(asked, generation)
    if asked.stream:
        generation.submit()
        return EventStream(
            answer.stream(),
            on_error=lambda error: json.dumps(_log(state, request.scope, error).body()),
            on_end=generation.release,
        )
    return await _whole(request, answer)


async def _embed(state: ServerState, request: Request) -> Response:
    """The walk of texts to their vectors."""
    asked = parse_request(EmbeddingRequest, await _read_body(request, state.config))
    served = state.find(asked.model)
    texts = await encode_prompts(served, asked.input, "input")
    sampling = embedding_sampling(served, texts, asked)
    tags = _tags(request, asked)
    generation = state.generation(served, texts, sampling, request.url.path, asked.priority, **tags)
    return await _whole(request, EmbeddingAnswer(asked, generation))


async def _whole(request: Request, answer: Answer | EmbeddingAnswer) -> Response:
    """An answer that is not streamed. Whoever hangs up frees its slots."""
    with answer.generation:
        try:
            return _json(await while_connected(request.receive, answer.collect()))
        except ClientGone:
            return Response(status_code=499)  # nobody reads it; the name nginx gives this end


def _tags(request: Request, asked: BaseModel) -> dict[str, Any]:
    """What of a request goes to the event log."""
    tags = {name: getattr(asked, name, None) for name in ("user", "metadata", "safety_identifier")}
    return {name: value for name, value in tags.items() if value} | {"request_id": request.scope["danlu.request_id"]}


async def _read_body(request: Request, config: ServerConfig) -> bytes:
    """The whole body, or 408, 413 or 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, 'the request must have "Content-Type: application/json"')
    limit = config.max_body_bytes
    too_long = ApiError(413, f"the request body is longer than {limit} bytes", code="request_too_large")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(config.body_seconds):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise too_long
    except TimeoutError:
        raise ApiError(408, f"the request body did not arrive within {config.body_seconds:g} seconds") from None
    return bytes(body)


def _card(served: ServedModel) -> ModelCard:
    return ModelCard(
        id=served.name,
        created=served.created,
        context_length=served.context_length,
        chat=served.chat,
        parent=served.parent,
    )


def _json(body: BaseModel) -> Response:
    return Response(body.model_dump_json(), media_type="application/json")


# --- errors ---------------------------------------------------------------------------------------------------------


def _not_found(request: Request) -> ApiError:
    return ApiError(404, f"there is nothing at {request.url.path}", code="unknown_url")


def _wrong_method(request: Request, allowed: str) -> ApiError:
    message = f"{request.url.path} takes {allowed}, not {request.method}"
    return ApiError(405, message, code="method_not_allowed", headers={"Allow": allowed})


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _error_response(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """What the framework found wrong, said in OpenAI's form."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _error_response(_not_found(request))
    if error.status_code == 405:
        return _error_response(_wrong_method(request, (error.headers or {}).get("Allow", "another method")))
    return _error_response(ApiError(error.status_code, str(error.detail), headers=dict(error.headers or {})))


def _error_response(error: ApiError) -> Response:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


def _log(state: ServerState, scope: Scope, error: Exception) -> ApiError:
    """What the client is told about an exception. Our own mistakes go to the event log, with their traceback."""
    if isinstance(error, ApiError):
        return error
    request_id = scope["danlu.request_id"]
    trace = "".join(traceback.format_exception(error))
    state.events.emit("failed", request_id=request_id, path=scope["path"], error=repr(error), traceback=trace)
    message = f"the server failed while answering (request {request_id}); its event log says why"
    return ApiError(500, message, kind="server_error", code="internal_error")


class _Guard:
    """Outermost: the request's id, the host check, safe headers, and the last catch for exceptions."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        scope["danlu.request_id"] = request_id
        began = False

        async def send_with_id(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                MutableHeaders(scope=message).update({**SAFETY_HEADERS, "x-request-id": request_id})
            await send(message)

        if not self._host_is_ours(headers.get("host", "")):
            refusal = ApiError(421, "this server does not answer for that host name", code="unknown_host")
            if scope["type"] == "http":
                await _error_response(refusal)(scope, receive, send_with_id)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            problem = _log(self.state, scope, error)
            if scope["type"] == "http" and not began:
                await _error_response(problem)(scope, receive, send_with_id)

    def _host_is_ours(self, host: str) -> bool:
        """`host` is the Host header, a port may follow the name."""
        allowed = self.state.config.allowed_hosts
        return allowed is None or re.sub(r":\d+$", "", host).lower() in allowed


# --- the page -------------------------------------------------------------------------------------------------------


def _add_page(app: FastAPI, state: ServerState) -> None:
    """The chat page when NiceGUI is there; without it a plain page that says how to get it. The API needs neither."""
    if importlib.util.find_spec("nicegui") is not None:
        from danlu.serve.page import add_page

        add_page(app, state)
        return

    @app.get("/")
    async def no_page() -> Response:
        hint = 'The API is running. The chat page needs NiceGUI: <code>pip install "danlu[serve]"</code>'
        return HTMLResponse(f"<!doctype html><meta charset=utf-8><title>danlu</title><p>{hint}</p>")
