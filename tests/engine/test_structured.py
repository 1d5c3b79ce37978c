"""Answers that keep a form, in any company, from a model that would never keep it by itself."""

from __future__ import annotations

import json
import re

import pytest

from danlu.core.errors import DanluError, UserError
from danlu.engine import Engine, Grammar, Sampling, structured
from danlu.model.transformer import Transformer
from danlu.tokenizer.tokenizer import Tokenizer
from danlu.tokenizer.tools import PLAIN

pytest.importorskip("llguidance")

Talker = tuple[Transformer, Tokenizer]
SCHEMA = {
    "type": "object",
    "properties": {
        "城市": {"type": "string", "enum": ["北京", "上海", "Paris"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "warm": {"type": "boolean"},
    },
    "required": ["城市", "days", "warm"],
    "additionalProperties": False,
}


def answer(e: Engine, grammar: Grammar, **changes: object) -> tuple[str, str]:
    settings = {"temperature": 1.0, "seed": 1, "max_tokens": 200} | changes
    output = next(iter(e.generate("The quick", Sampling(grammar=grammar, **settings))))  # type: ignore[arg-type]
    return output.text, output.finish_reason


@pytest.mark.parametrize("seed", range(4))
def test_a_schema_is_kept(talker: Talker, seed: int) -> None:
    text, reason = answer(Engine(talker), Grammar.json_schema(SCHEMA), seed=seed)
    value = json.loads(text)
    assert reason == "stop"
    assert set(value) == {"城市", "days", "warm"} and value["城市"] in ("北京", "上海", "Paris")
    assert 1 <= value["days"] <= 14 and isinstance(value["warm"], bool)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_regex_choice_and_grammar(talker: Talker, temperature: float) -> None:
    e = Engine(talker)
    text, _ = answer(e, Grammar.regex(r"[a-c]{3}-[0-9]{2}月"), temperature=temperature)
    assert re.fullmatch(r"[a-c]{3}-[0-9]{2}月", text)
    texts = ["明月光", "地上霜", 'a "quoted" one\n']
    assert answer(e, Grammar.choice(texts), temperature=temperature)[0] in texts
    text, _ = answer(e, Grammar.lark('start: "(" start ")" | "x"'), temperature=temperature, max_tokens=40)
    assert re.fullmatch(r"\(*x?\)*", text)


def test_company_batches_and_preemption_change_nothing(talker: Talker) -> None:
    """Several forms and none in one batch, with a cache too small for all."""
    grammars = [Grammar.json_schema(SCHEMA), None, Grammar.regex("(ab|月){6,9}!"), Grammar.choice(["stop", "床前"])]
    settings = [Sampling(temperature=1.0, seed=i, max_tokens=60, grammar=g) for i, g in enumerate(grammars)]
    prompts = ["床前明月光", "def quicksort", "The", "👍🏽"]
    alone = [next(iter(Engine(talker).generate(p, s))) for p, s in zip(prompts, settings, strict=True)]
    roomy = Engine(talker, block_size=4)
    tight = Engine(talker, block_size=4, kv_bytes=24 * 4 * roomy.cache.shape.bytes_per_token, max_batch_tokens=8)
    together = list(tight.generate(prompts, settings))
    assert [o.token_ids for o in together] == [o.token_ids for o in alone]
    assert tight.stats.preemptions > 0
    tight.cache.check([])


def test_several_answers_have_a_parser_each(talker: Talker) -> None:
    outputs = list(Engine(talker).generate("The", Sampling(grammar=Grammar.regex("[ab]{8}"), n=4, seed=3)))
    assert all(re.fullmatch("[ab]{8}", o.text) for o in outputs)
    assert len({o.text for o in outputs}) > 1


def test_too_few_tokens_leave_a_fragment(talker: Talker) -> None:
    text, reason = answer(Engine(talker), Grammar.json_schema(SCHEMA), max_tokens=3)
    assert reason == "length" and text.startswith("{")


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        (Grammar.regex("a(b"), "regular expression is not understood: .*a\\(b"),
        (Grammar.json_schema({"type": "objekt"}), "JSON schema is not understood: Invalid type: objekt"),
        (Grammar.json_schema({"not": {"type": "string"}}), 'not understood: Unimplemented keys: \\["not"\\]'),
        (Grammar("json_schema", "{"), "JSON schema is not understood"),
        (Grammar.lark("start: other"), "grammar is not understood"),
        (Grammar.tool_calls(PLAIN, {"f": {"type": "objekt"}}, text=True, most=1), 'of the tool "f" are not .*: objekt'),
        (Grammar.tool_calls(PLAIN, {"f": {"pattern": "a" * 70_000}}, text=True, most=1), "list of tools has 70,"),
        (Grammar.regex("a" * (structured.MAX_BYTES + 1)), "regular expression has 65,537 bytes"),
        (Grammar.regex(""), "regular expression matches the empty text alone"),
        (Grammar.regex("a{0}"), "regular expression matches the empty text alone"),
        (Grammar.lark('start: ""'), "grammar matches the empty text alone"),
        (Grammar.lark("start: "), "grammar matches the empty text alone"),
        (Grammar.lark('start: start "a"'), "grammar matches no text"),
        (Grammar.lark("start: BOTH\nBOTH: /a+/ & /b+/"), "grammar matches no text"),
    ],
)
def test_what_cannot_be_compiled_is_refused_and_the_engine_goes_on(talker: Talker, grammar: Grammar, says: str) -> None:
    e = Engine(talker)
    with pytest.raises(UserError, match=says):
        e.submit([1], Sampling(grammar=grammar))
    assert not e.has_work
    assert answer(e, Grammar.choice(["yes"]))[0] == "yes"


def test_a_form_may_have_the_empty_text_among_others(talker: Talker) -> None:
    assert re.fullmatch("a?", answer(Engine(talker), Grammar.regex("a?"))[0])


def test_a_parser_that_gives_up_is_no_end(talker: Talker) -> None:
    e = Engine(talker)
    with pytest.raises(DanluError, match="parser of the grammar gave up"):
        list(e.generate("x", Sampling(grammar=Grammar.regex("(a{1000}){1000}"), max_tokens=20)))
    assert answer(e, Grammar.choice(["yes"]))[0] == "yes"


def spelled(e: Engine, text: str) -> list[int]:
    assert e.tokenizer is not None
    return e.tokenizer.encode(text)


CALLS = Grammar.tool_calls(PLAIN, {"look": SCHEMA, "wait": {"type": "object"}}, text=True, most=2)
CALL = '<tool_call>\n{"name": "look", "arguments": {"城市": "北京", "days": 3, "warm": true}}\n</tool_call>'


@pytest.mark.parametrize("before", ["", "I look. \n", "a < b, <tool_cal and <tool_call "])
def test_tool_calls_are_text_and_then_the_form(talker: Talker, before: str) -> None:
    e = Engine(talker)
    matcher = e.prepare(Sampling(grammar=CALLS))
    assert matcher is not None
    ends = [token for token in e.stop_ids if token < e.model.config.vocab_size]
    mine = matcher.copy()
    for token in spelled(e, before):
        assert mine.allowed()[ends].any(), "text may end anywhere"
        assert mine.accept(token)
    for character in "<tool_call>":
        (token,) = spelled(e, character)
        assert mine.allowed()[token]
        mine.accept(token)
    only = [i for i in range(e.model.config.vocab_size) if mine.allowed()[i]]
    assert all("\n{".startswith(e.tokenizer.decode([i])[:2]) for i in only), "behind the tag nothing but the form"  # type: ignore
    for token in spelled(e, CALL.removeprefix("<tool_call>")):
        assert mine.allowed()[token] and mine.accept(token)
    assert mine.allowed()[ends].any() and not mine.complete, "the end, or a second call"
    for token in spelled(e, "\n" + CALL):
        assert mine.allowed()[token] and mine.accept(token)
    (line,) = spelled(e, "\n")
    assert mine.accept(line) and mine.allowed()[ends].any(), "a line break is no promise of another one"
    assert not mine.allowed()[spelled(e, "<")].any(), "no third one"
    for character in "x 01234567890":
        assert not mine.complete
        (token,) = spelled(e, character)
        assert mine.allowed()[token] and mine.accept(token), "a text begins"
    assert mine.complete, "and that is the end"


def test_a_call_must_keep_the_schema_of_its_tool(talker: Talker) -> None:
    e = Engine(talker)
    matcher = e.prepare(Sampling(grammar=CALLS))
    assert matcher is not None

    def reads(text: str) -> bool:
        mine = matcher.copy()
        return all(mine.allowed()[token] and mine.accept(token) for token in spelled(e, text))

    assert reads(CALL)
    assert reads(CALL.replace("look", "wait")), "which takes anything"
    assert not reads(CALL.replace("look", "loop"))
    assert not reads(CALL.replace("3", "15"))
    assert not reads(CALL.replace("true", "1"))
    assert not reads(CALL.replace(", ", ",")), "one way to write JSON"
    assert not reads(CALL.replace("北京", r"\u5317"))


BARE = '{"name": "look", "arguments": {"城市": "北京", "days": 3, "warm": true}}'
BLOCK = '```json\n{\n  "name": "look",\n  "arguments": {"城市": "北京", "days": 3, "warm": true}\n}\n```'


def test_a_call_without_its_tag_keeps_the_schema_too(talker: Talker) -> None:
    e = Engine(talker)

    def reads(text: str, bare: bool = True) -> bool:
        tools = {"look": SCHEMA, "loo": {"type": "object"}}
        matcher = e.prepare(Sampling(grammar=Grammar.tool_calls(PLAIN, tools, text=True, bare=bare, most=2)))
        assert matcher is not None
        mine = matcher.copy()
        return all(mine.allowed()[token] and mine.accept(token) for token in spelled(e, text))

    assert reads(CALL) and reads("text " + CALL)
    for text in (BARE, BLOCK):
        assert reads(text)
        assert reads(text.replace("look", "loo")), "which takes anything"
        assert not reads(text.replace("3", "15"))
        assert reads(text.replace("3", "15"), bare=False), "there it is text"
        assert reads("so: " + text.replace("3", "15")), "and so it is behind a word"
        assert reads(text.replace("look", "other").replace("3", "15")), "and of no known tool"
    assert not reads(BARE + CALL), "one call, no tag behind it"
    assert reads("```python\nprint()\n```") and reads('{"city": "Paris"}')


def test_the_deadline(talker: Talker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structured, "COMPILE_SECONDS", 0.0)
    with pytest.raises(UserError, match="took longer than 0 s to compile"):
        Engine(talker).submit([1], Sampling(grammar=Grammar.regex("(a{1,500}b){1,500}")))


def test_bad_grammars_are_refused_when_they_are_made() -> None:
    with pytest.raises(UserError, match="at least one text"):
        Grammar.choice([])
    with pytest.raises(UserError, match="at least one tool"):
        Grammar.tool_calls(PLAIN, {}, text=True, most=1)
    with pytest.raises(UserError, match='no kind of grammar "yaml"'):
        Grammar("yaml", "")


def test_a_model_without_a_tokenizer_says_so(talker: Talker) -> None:
    with pytest.raises(UserError, match="needs a tokenizer"):
        Engine((talker[0], None)).submit([1], Sampling(grammar=Grammar.regex("a")))


def test_undo_takes_tokens_back(talker: Talker) -> None:
    e = Engine(talker)
    matcher = e.prepare(Sampling(grammar=Grammar.regex("ab[cd]")))
    assert matcher is not None
    mine, before = matcher.copy(), matcher.allowed()
    token = int(before.nonzero()[0])
    assert mine.accept(token)
    mine.undo(1)
    assert mine.allowed().equal(before)
