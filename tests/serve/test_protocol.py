"""What a request may say: honoured or refused by name, never ignored. No server is needed to see it."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params

from danlu.serve.embeddings import EmbeddingRequest
from danlu.serve.protocol import ChatRequest, CompletionRequest
from danlu.serve.wire import ApiError, parse_request

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"model": "m", "prompt": "hi"}
BODIES: dict[Any, dict[str, Any]] = {
    ChatRequest: CHAT,
    CompletionRequest: TEXT,
    EmbeddingRequest: {"model": "m", "input": "hi"},
}


def refusal(cls: type, body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_request(cls, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("cls", "params"),
    [
        (ChatRequest, chat_create_params.CompletionCreateParamsBase),
        (CompletionRequest, completion_create_params.CompletionCreateParamsBase),
        (EmbeddingRequest, embedding_create_params.EmbeddingCreateParams),
    ],
)
def test_every_field_of_the_official_client_is_known(cls: Any, params: Any) -> None:
    """A field that OpenAI adds is refused as unknown until someone decides: this test names it."""
    known = {*cls.model_fields, *cls.ONE_VALUE, *cls.NOT_SUPPORTED}
    assert set(get_type_hints(params)) - known == set()


@pytest.mark.parametrize("name", sorted(ChatRequest.NOT_SUPPORTED | set(ChatRequest.ONE_VALUE)))
def test_unsupported_chat_fields_are_refused_by_name(name: str) -> None:
    error = refusal(ChatRequest, CHAT | {name: {"some": "value"}})
    assert error.param == name
    assert f'"{name}"' in error.message
    assert error.code in ("unsupported_parameter", "unsupported_value")


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (ChatRequest, {"tool_choice": "none", "store": False, "response_format": {"type": "text"}}),
        (ChatRequest, {"modalities": ["text"], "service_tier": "auto", "user": "ann", "metadata": {"a": "b"}}),
        (ChatRequest, {"tools": None, "functions": None, "stop": None, "seed": None, "temperature": None}),
        (ChatRequest, {"max_tokens": 5, "max_completion_tokens": 5}),
        (CompletionRequest, {"echo": False, "suffix": "", "best_of": 1, "logprobs": 0}),
        (CompletionRequest, {"echo": None, "suffix": None, "logit_bias": {"5": -100, "6": 0.5}}),
        (CompletionRequest, {"echo": True, "max_tokens": 0}),
        (EmbeddingRequest, {"dimensions": None, "encoding_format": None, "user": "ann"}),
        (EmbeddingRequest, {"input": [[1, 2], [3]], "encoding_format": "base64", "pooling": "mean", "priority": -1}),
        (CompletionRequest, {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}}),
    ],
)
def test_the_one_supported_value_and_null_are_accepted(cls: Any, fields: dict[str, Any]) -> None:
    parse_request(cls, json.dumps(BODIES[cls] | fields).encode())


REFUSED: list[tuple[type, dict[str, Any], str, str]] = [
    (ChatRequest, {"temprature": 1}, "temprature", 'did you mean "temperature"?'),
    (ChatRequest, {"temperature": "1"}, "temperature", "number"),
    (ChatRequest, {"temperature": 2.1}, "temperature", "less than or equal to 2"),
    (ChatRequest, {"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    (ChatRequest, {"top_p": 0}, "top_p", "greater than 0"),
    (ChatRequest, {"n": 0}, "n", "greater than or equal to 1"),
    (ChatRequest, {"n": True}, "n", "integer"),
    (ChatRequest, {"n": 1.5}, "n", "integer"),
    (ChatRequest, {"n": 1000}, "n", "128"),
    (ChatRequest, {"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    (ChatRequest, {"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "max_completion_tokens"),
    (ChatRequest, {"seed": 2**63}, "seed", "less than"),
    (ChatRequest, {"stream": "yes"}, "stream", "boolean"),
    (ChatRequest, {"stop": [""]}, "stop", "empty"),
    (ChatRequest, {"stop": [1]}, "stop", "list of strings"),
    (ChatRequest, {"stop": ["x"] * 17}, "stop", "at most 16"),
    (ChatRequest, {"top_logprobs": 2}, "top_logprobs", '"logprobs": true'),
    (ChatRequest, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
    (ChatRequest, {"stream_options": {"include_usage": True}}, "stream_options", '"stream": true'),
    (ChatRequest, {"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown field"),
    (ChatRequest, {"logit_bias": {"a": 1}}, "logit_bias", '"a" is not a token id'),
    (ChatRequest, {"logit_bias": {"1": 101}}, "logit_bias", "-100 to 100"),
    (ChatRequest, {"metadata": {"a": 1}}, "metadata", "strings"),
    (ChatRequest, {"messages": []}, "messages", "at least 1"),
    (ChatRequest, {"messages": "hi"}, "messages", "array"),
    (ChatRequest, {"messages": ["hi"]}, "messages[0]", "JSON object"),
    (ChatRequest, {"messages": [{"role": "critic", "content": "x"}]}, "messages[0].role", "'assistant'"),
    (ChatRequest, {"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
    (ChatRequest, {"messages": [{"role": "user", "content": None}]}, "messages[0].content", "missing"),
    (ChatRequest, {"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0].name", "not supported"),
    (
        ChatRequest,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content",
        '"image_url"',
    ),
    (CompletionRequest, {"echo": 1}, "echo", "boolean"),
    (CompletionRequest, {"max_tokens": 0}, "max_tokens", 'only with "echo": true'),
    (CompletionRequest, {"max_tokens": -1, "echo": True}, "max_tokens", "greater than or equal to 0"),
    (CompletionRequest, {"best_of": 2}, "best_of", "only as 1"),
    (CompletionRequest, {"suffix": "x"}, "suffix", "not supported"),
    (CompletionRequest, {"logprobs": True}, "logprobs", "integer"),
    (CompletionRequest, {"messages": []}, "messages", "unknown field"),
    (CompletionRequest, {"prompt": []}, "prompt", "token ids"),
    (CompletionRequest, {"prompt": [1, "a"]}, "prompt", "token ids"),
    (CompletionRequest, {"prompt": [-1]}, "prompt", "token ids"),
    (CompletionRequest, {"prompt": [[1], []]}, "prompt", "token ids"),
    (CompletionRequest, {"prompt": {"a": 1}}, "prompt", "token ids"),
    (CompletionRequest, {"prompt": None}, "prompt", "missing"),
    (EmbeddingRequest, {"dimensions": 256}, "dimensions", "not supported"),
    (EmbeddingRequest, {"encoding_format": "int8"}, "encoding_format", "'base64'"),
    (EmbeddingRequest, {"input": None}, "input", "missing"),
    (EmbeddingRequest, {"input": []}, "input", "token ids"),
    (EmbeddingRequest, {"input": ["a", [1]]}, "input", "token ids"),
    (EmbeddingRequest, {"inputs": "a"}, "inputs", 'did you mean "input"?'),
    (EmbeddingRequest, {"pooling": "cls"}, "pooling", "'mean'"),
    (EmbeddingRequest, {"normalize": "no"}, "normalize", "boolean"),
    (EmbeddingRequest, {"user": "x" * 513}, "user", "512"),
]


@pytest.mark.parametrize(("cls", "fields", "param", "says"), REFUSED, ids=[f"{row[1]}" for row in REFUSED])
def test_refusals_name_the_field_and_say_why(cls: type, fields: dict[str, Any], param: str, says: str) -> None:
    error = refusal(cls, BODIES[cls] | fields)
    assert error.param == param
    assert says in error.message
    assert f'"{param}"' in error.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b"\xff\xfe", b'{"model": "m",}', b'{"a":' * 5000, b'{"model": "\\ud800"}', b"1", b"[]"],
)
def test_malformed_bodies(body: bytes) -> None:
    error = refusal(ChatRequest, body)
    assert "the request body" in error.message


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(number: str) -> None:
    body = f'{{"model": "m", "prompt": "x", "temperature": {number}}}'.encode()
    assert refusal(CompletionRequest, body).param in ("temperature", None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*ChatRequest.model_fields, *ChatRequest.ONE_VALUE, "x"]), JSON, max_size=4))
def test_any_json_is_a_request_or_one_clear_refusal(fields: dict[str, Any]) -> None:
    try:
        parse_request(ChatRequest, json.dumps(CHAT | fields).encode())
    except ApiError as error:
        assert error.status == 400
        assert error.message
        assert error.body()["error"]["type"] == "invalid_request_error"


def test_messages_know_every_field_of_an_answer() -> None:
    from openai.types.chat import ChatCompletionMessage

    from danlu.serve.protocol import Message

    known = {*Message.model_fields, *Message.ONE_VALUE, *Message.NOT_SUPPORTED}
    assert set(ChatCompletionMessage.model_fields) - known == set()
    assert "assistant" in get_args(Message.model_fields["role"].annotation)


def test_numbers_and_texts_beyond_all_measure() -> None:
    assert refusal(ChatRequest, CHAT | {"top_k": 10**20}).param == "top_k"
    deep = '{"a":' + "[" * 5000 + "]" * 5000 + "}"
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": deep}}
    messages = [*CHAT["messages"], {"role": "assistant", "tool_calls": [call]}]
    error = refusal(ChatRequest, CHAT | {"messages": messages})
    assert error.param is not None and "arguments" in error.param
