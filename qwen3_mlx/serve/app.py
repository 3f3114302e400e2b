"""The routes of the server: for every path, its handler and its dialect."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from qwen3_mlx.chat.runtime import Runtime
from qwen3_mlx.serve import (
    chat_completions,
    completions,
    input_items,
    message_writer,
    messages,
    response_writer,
    responses,
    retrieve,
)
from qwen3_mlx.serve.answer import (
    answer,
    body_of,
    error_response,
    ignored_header,
    json_response,
    until_gone,
)
from qwen3_mlx.serve.api_error import ApiError, refused
from qwen3_mlx.serve.ask import Ask, prompt_ids
from qwen3_mlx.serve.desk import Desk
from qwen3_mlx.serve.fields import Fields, required
from qwen3_mlx.serve.guard import Guard, Rules, dialect_of
from qwen3_mlx.serve.responses import Kept
from qwen3_mlx.serve.tokens import detokenized, tokenized
from qwen3_mlx.serve.web_page import web_page
from qwen3_mlx.serve.wrong_path import instead

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

HEALTH_SECONDS = 5.0
T = TypeVar("T")
Handler = Callable[["Api", "Request"], Awaitable["Response"]]


class Api:
    """The request handlers of one model; with `strict`, other model names get a 404."""

    def __init__(self, desk: Desk, strict: bool = False) -> None:
        self.desk, self.strict = desk, strict
        self.kept = Kept()

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        ask = chat_completions.read(await body_of(request))
        self._check_name(ask.model)
        make = chat_completions.Writer
        return await answer(self.desk, request, ask, "chatcmpl-", make, "openai")

    async def completions(self, request: Request) -> Response:
        """``POST /v1/completions``."""
        ask = completions.read(await body_of(request))
        self._check_name(ask.model)
        return await answer(self.desk, request, ask, "cmpl-", completions.Writer, "openai")

    async def messages(self, request: Request) -> Response:
        """``POST /v1/messages``."""
        ask = messages.read(await body_of(request))
        self._check_name(ask.model)
        return await answer(self.desk, request, ask, "msg_", message_writer.Writer, "anthropic")

    async def count_tokens(self, request: Request) -> Response:
        """``POST /v1/messages/count_tokens``: the prompt's tokens, as the turn would count them."""
        ask = messages.read(await body_of(request), counting=True)
        self._check_name(ask.model)
        return await self._counted(request, ask, {})

    async def input_tokens(self, request: Request) -> Response:
        """``POST /v1/responses/input_tokens``: the same, in OpenAI's words."""
        ask = responses.read(await body_of(request), self.kept)
        self._check_name(ask.model)
        return await self._counted(request, ask, {"object": "response.input_tokens"})

    async def _counted(self, request: Request, ask: Ask, head: dict[str, Any]) -> Response:
        ids = await self._work(request, lambda: prompt_ids(self.desk.model.runtime, ask))
        headers = ignored_header(ask.ignored)
        return json_response({**head, "input_tokens": len(ids)}, headers=headers)

    async def responses(self, request: Request) -> Response:
        """``POST /v1/responses``."""
        ask = responses.read(await body_of(request), self.kept)
        self._check_name(ask.model)
        make = partial(response_writer.Writer, kept=self.kept)
        return await answer(self.desk, request, ask, "resp_", make, "openai")

    async def _work(self, request: Request, act: Callable[[], T]) -> T:
        """Run `act`, which makes prompts of the request, in a helper thread."""
        return await self.desk.work(act, len(await request.body()))

    async def response(self, request: Request) -> Response:
        """``GET`` and ``DELETE /v1/responses/{id}``."""
        id = request.path_params["id"]
        if request.method != "DELETE":
            responses.check_whole(request.query_params)
            return json_response(self.kept.response(id))
        self.kept.drop(id)
        return json_response({"id": id, "object": "response", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        """``GET /v1/responses/{id}/input_items``."""
        items = self.kept.said(request.path_params["id"])
        return json_response(input_items.page(items, request.query_params))

    async def interrupt(self, request: Request) -> Response:
        """``POST /v1/interrupt``: make a turn answer now, or stop. Only our web page uses it."""
        found = Fields(await body_of(request))
        id, kind = required(found.text("id"), "id"), found.text("kind") or "answer"
        if kind not in ("answer", "stop"):
            raise refused("kind", kind, "expected answer or stop")
        opened = self.desk.find(id)
        if opened is None:
            raise ApiError(404, f"no turn {id[:80]!r} is under way", code="not_found")
        opened.turn.interrupt("answer" if kind == "answer" else "stop")
        return json_response({"id": id, "interrupted": kind})

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``: the served model, in the client's dialect."""
        if "anthropic-version" in request.headers:
            one = self._anthropic_model()
            ends = {"first_id": one["id"], "last_id": one["id"], "has_more": False}
            return json_response({"data": [one], **ends})
        return json_response({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/{id}``."""
        id = request.path_params["id"]
        if id != self.desk.model.name:
            raise self._no_model(id)
        anthropic = "anthropic-version" in request.headers
        return json_response(self._anthropic_model() if anthropic else self._model())

    def _model(self) -> dict[str, Any]:
        model, context = self.desk.model, self.desk.model.config.context
        one = {"id": model.name, "object": "model", "created": int(self.desk.began)}
        one |= {"owned_by": "qwen3-mlx", "context_length": context, "max_model_len": context}
        return one | {"family": model.family}

    def _anthropic_model(self) -> dict[str, Any]:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.desk.began))
        name, context = self.desk.model.name, self.desk.model.config.context
        one = {"type": "model", "id": name, "display_name": name, "created_at": when}
        return one | {"lifecycle": "active", "max_input_tokens": context, "max_tokens": context}

    def _check_name(self, name: str) -> None:
        if self.strict and name not in ("", self.desk.model.name):
            raise self._no_model(name)

    def _no_model(self, name: str) -> ApiError:
        message = f"no model {name[:80]!r} here, only {self.desk.model.name!r}"
        return ApiError(404, message, param="model", code="model_not_found")

    async def tokenize(self, request: Request) -> Response:
        """``POST /tokenize``: the ids of a text, or of the prompt of a chat with these fields."""
        body, runtime = await body_of(request), self.desk.model.runtime
        self._check_name(Fields(body).text("model") or "")
        found, ignored = await self._work(request, lambda: tokenized(body, runtime))
        return json_response(found, headers=ignored_header(ignored))

    async def detokenize(self, request: Request) -> Response:
        """``POST /detokenize``: the text of token ids, by vLLM's name and by llama.cpp's."""
        body = await body_of(request)
        self._check_name(Fields(body).text("model") or "")
        found, ignored = detokenized(body, self.desk.model.tokenizer)
        return json_response(found, headers=ignored_header(ignored))

    async def health(self, request: Request) -> Response:
        """``GET /health``: 200 if turns are accepted and computed, else 503 with the reason."""
        desk, scheduler = self.desk, self.desk.scheduler
        status = "ok"
        if not await desk.responsive(HEALTH_SECONDS):
            status = "stuck" if desk.thread.alive else "stopped"
        elif desk.thread.degraded:
            status = "degraded"
        elif desk.draining:
            status = "draining"
        body = {"status": status, "model": desk.model.name, "running": scheduler.running}
        body |= {"waiting": scheduler.waiting, "faults": scheduler.counts.faults}
        body["loop_age_seconds"] = round(time.monotonic() - scheduler.last_round, 3)
        return json_response(body, 200 if status == "ok" else 503)

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``: the counters in Prometheus' text format."""
        from starlette.responses import PlainTextResponse

        return PlainTextResponse(self.desk.metrics.text(self.desk))

    async def page(self, request: Request) -> Response:
        """``GET /``: the web page with the chat."""
        return web_page()

    async def embeddings(self, request: Request) -> Response:
        """``POST /v1/embeddings``."""
        return await self._retrieve(request, retrieve.read_embeddings)

    async def rerank(self, request: Request) -> Response:
        """``POST /v1/rerank``, with the fields of Jina's and Cohere's APIs."""
        return await self._retrieve(request, retrieve.read_rerank)

    async def _retrieve(
        self, request: Request, read: Callable[[Any, Runtime], retrieve.Retrieval]
    ) -> Response:
        body, runtime = await body_of(request), self.desk.model.runtime
        found = await self._work(request, lambda: read(body, runtime))
        self._check_name(body.get("model") or "")
        computing = self.desk.beside(found.steps(runtime))
        answer = await until_gone(request.receive, computing)
        if answer is None:
            raise ApiError(499, "the client went away")
        return json_response(answer, headers=ignored_header(found.ignored))


ROUTES: tuple[tuple[str, str, str], ...] = (
    ("/v1/chat/completions", "POST", "chat"),
    ("/v1/completions", "POST", "completions"),
    ("/v1/messages", "POST", "messages"),
    ("/v1/messages/count_tokens", "POST", "count_tokens"),
    ("/v1/responses", "POST", "responses"),
    ("/v1/responses/input_tokens", "POST", "input_tokens"),
    ("/v1/responses/{id}", "GET DELETE", "response"),
    ("/v1/responses/{id}/input_items", "GET", "input_items"),
    ("/v1/interrupt", "POST", "interrupt"),
    ("/v1/models", "GET", "models"),
    ("/v1/models/{id:path}", "GET", "model"),
    ("/v1/embeddings", "POST", "embeddings"),
    ("/v1/rerank", "POST", "rerank"),
    ("/v2/rerank", "POST", "rerank"),
    ("/rerank", "POST", "rerank"),
    ("/tokenize", "POST", "tokenize"),
    ("/detokenize", "POST", "detokenize"),
    ("/health", "GET", "health"),
    ("/metrics", "GET", "metrics"),
    ("/", "GET", "page"),
)


def build(desk: Desk, rules: Rules, strict: bool = False) -> Guard:
    """The ASGI application behind a `Guard` with `rules`. strict: see `Api`."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    api = Api(desk, strict)

    def counted(path: str, name: str) -> Callable[[Request], Awaitable[Response]]:
        handler = getattr(api, name)

        async def handle(request: Request) -> Response:
            try:
                response: Response = await handler(request)
            except Exception as error:
                response = error_response(error, dialect_of(path, request.headers))
            desk.metrics.statuses[path, response.status_code] += 1
            return response

        return handle

    async def wrong(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        path, allowed = request.url.path, getattr(error, "headers", None) or {}
        known = [known for known, _, _ in ROUTES]
        hint = instead(path, allowed.get("Allow"), known)
        said = f"{request.method} {path[:200]} is not served here{hint}"
        response = error_response(ApiError(status, said), dialect_of(path, request.headers))
        response.headers.update(allowed)
        return response

    routes = [
        Route(path, counted(path, name), methods=methods.split()) for path, methods, name in ROUTES
    ]
    return Guard(Starlette(routes=routes, exception_handlers={404: wrong, 405: wrong}), rules)
