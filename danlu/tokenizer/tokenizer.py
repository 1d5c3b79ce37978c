"""The one tokenizer: text to ids and back, the same for training, serving and every model family.

It reads what the Hugging Face world writes: `tokenizer.json` (the algorithm and the vocabulary, run by the
`tokenizers` library, or faster and to the same ids by `encoder.py` where that knows the algorithm) and
`tokenizer_config.json` (which tokens are special, the chat template).

    text  --encode-->  ids  --token_bytes-->  bytes  --decode-->  text

Text is never control. A model is steered by special tokens such as <|im_end|>, and the library turns that string
into that token wherever it stands, also in what a user typed. So two encoders share one vocabulary here:

    plain     knows no special tokens: the string <|im_end|> becomes the tokens of its letters    encode(text)
    control   as the file says, special strings become special tokens                encode(text, special=True)

The second one is for text that danlu's own chat renderer made, and the renderer guards what came from outside
(see `chat.py`). Added tokens that are ordinary text, such as GPT-NeoX's runs of blanks, are known to both.

Bytes are the truth, text is a view: a token may hold half a character, so `decode` joins the bytes of all tokens
first and shows what is not UTF-8 as U+FFFD. A Python string may hold a lone surrogate, which no UTF-8 file can:
`encode` joins surrogate pairs and replaces lone ones by U+FFFD; every other string comes back exactly.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from danlu.core.artifact import atomic_write, read_json
from danlu.core.errors import UserError
from danlu.tokenizer import chat
from danlu.tokenizer.alphabet import from_alphabet
from danlu.tokenizer.encoder import Encoder, make_encoder

COMPILED_FROM = 1 << 18  # characters
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
# Special tokens that end a turn in the families danlu reads; a model stops at these besides its eos_token.
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<|end_of_text|>")
# An added token not flagged special but written like markup (<think>, [TOOL_CALLS]) is control all the same.
_MARKUP = re.compile(r"[<\[].*[>\]]", re.DOTALL)
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """Encodes, decodes and renders chats. Safe to share between threads: what changes later changes no answer."""

    def __init__(self, tokenizer_json: str | bytes, config: dict[str, Any] | None = None) -> None:
        """From the content of `tokenizer.json` and `tokenizer_config.json`.

        Raises UserError when the JSON is no tokenizer, or is one whose plain text cannot be kept apart from its
        special tokens.
        """
        import tokenizers

        self._json = tokenizer_json.encode() if isinstance(tokenizer_json, str) else tokenizer_json
        self.config: dict[str, Any] = copy.deepcopy(config) if config else {}
        try:
            self._control = tokenizers.Tokenizer.from_buffer(self._json)
        except Exception as error:  # the library raises a bare Exception for all that is wrong with the file
            raise UserError(
                f"this is no tokenizer.json that can be read ({_first_line(error)})",
                "export it again with a current version of the tokenizers library",
            ) from None
        self._control.no_padding()
        self._control.no_truncation()
        added: dict[int, Any] = self._control.get_added_tokens_decoder()
        self.special_ids: frozenset[int] = frozenset(i for i, token in added.items() if token.special)
        self.control_tokens: dict[str, int] = {
            token.content: i for i, token in added.items() if token.special or _MARKUP.fullmatch(token.content)
        }
        self._plain = self._plain_encoder(ordinary=[t for t in added.values() if t.content not in self.control_tokens])
        self._check_plain()
        self._encoder: Encoder | None = None
        self._decided, self._asked = False, 0  # see _compiled
        self.vocab_size: int = max(self._control.get_vocab_size(), 1 + max(added, default=-1))
        self.bos_id = self._role("bos_token")
        self.eos_id = self._role("eos_token")
        self.pad_id = self._role("pad_token")
        ends = {self.control_tokens[t] for t in END_OF_TURN if t in self.control_tokens} & self.special_ids
        self.stop_ids: frozenset[int] = frozenset(ends | ({self.eos_id} if self.eos_id is not None else set()))
        # What the file puts before every text (Llama's <|begin_of_text|>); `encode` leaves it to the caller.
        self.prefix_ids: tuple[int, ...] = tuple(self._leading_special())

    # ---- files

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read a tokenizer directory (or a model directory that holds one).

        Raises UserError when `tokenizer.json` is missing or a file is damaged.
        """
        path = Path(path)
        file = path / TOKENIZER_FILE
        if not file.is_file():
            raise UserError(
                f"there is no {TOKENIZER_FILE} in {path}",
                "give the directory of a tokenizer or model" if path.is_dir() else "check the path",
            )
        config = _read_if_there(path / CONFIG_FILE)
        for key, value in _read_if_there(path / "special_tokens_map.json").items():
            config.setdefault(key, value)
        if (template := path / "chat_template.jinja").is_file():
            config["chat_template"] = template.read_text(encoding="utf-8")
        try:
            return cls(file.read_bytes(), config)
        except UserError as error:
            raise UserError(f"{file}: {error.message}", error.hint) from None

    def to_json(self) -> str:
        """The text of tokenizer.json."""
        return self._json.decode()

    def save(self, path: Path | str) -> None:
        """Write `tokenizer.json` (the bytes it was loaded from) and `tokenizer_config.json` into a directory."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        atomic_write(path / TOKENIZER_FILE, self._json)
        text = json.dumps(self.config, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        atomic_write(path / CONFIG_FILE, text.encode())

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of `tokenizer.json`: what token shards carry to say which tokenizer made them."""
        return hashlib.sha256(self._json).hexdigest()

    # ---- text to ids

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`, with nothing added before or after.

        `special=True` reads special strings in the text as special tokens: only for rendered chats.
        """
        text = _well_formed(text)
        if (compiled := self._compiled(len(text))) is not None:
            return compiled.encode_one(text, added=int(special))
        library = self._control if special else self._plain
        ids: list[int] = library.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts at once, on all cores."""
        ids, ends = self.encode_arrays(texts)
        rows = ids.tolist()
        return [rows[start:end] for start, end in pairwise(ends.tolist())]

    def encode_arrays(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """`encode` of many texts at once without a Python object for each id.

        Returns all ids in a row, uint32 [N], and where each text begins and the last one ends in it, int64 [texts + 1].
        """
        texts = [_well_formed(text) for text in texts]
        if (compiled := self._compiled(sum(map(len, texts)))) is not None:
            return compiled.encode(texts)
        rows = [np.array(e.ids, np.uint32) for e in self._plain.encode_batch_fast(texts, add_special_tokens=False)]
        ids = np.concatenate([np.empty(0, np.uint32), *rows])
        return ids, np.cumsum([0, *map(len, rows)], dtype=np.int64)

    def _compiled(self, characters: int) -> Encoder | None:
        """The one place where it is chosen who encodes: the compiled encoder, or (None) the library.

        Both give the same ids. The compiled one is several times faster and has to be made, which takes up to a third
        of a second for the largest vocabularies: what a person types at a prompt in a day is done sooner without it.
        """
        if not self._decided:
            self._asked += characters
            if self._asked < COMPILED_FROM:
                return None
            self._encoder = make_encoder(self._json, [self._plain, self._control])
            self._decided = True
        return self._encoder

    # ---- ids to text

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are no UTF-8 show as U+FFFD, ids beyond the vocabulary as nothing."""
        skip = self.special_ids if skip_special else frozenset()
        data = b"".join(self.token_bytes(i) for i in ids if i not in skip)
        if self._strips_blank and data.startswith(b" "):
            data = data[1:]
        return data.decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that a token stands for; a special token gives its name, an unknown id nothing."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._spell(token_id)
        return known

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        return {}  # filled as tokens are met: spelling 150,000 of them would slow every start

    def _spell(self, token_id: int) -> bytes:
        token = self._control.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            return b""
        if token_id in self._added_ids:
            return str(token).encode("utf-8", "replace")
        if self._byte_level:
            return from_alphabet(token.removeprefix(self._continues))
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        return str(token).replace("\u2581", " ").encode("utf-8", "replace")  # sentencepiece writes blanks as U+2581

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self._control.get_added_tokens_decoder())

    @cached_property
    def _decoder(self) -> str:
        return self._control.decoder.__getstate__().decode() if self._control.decoder is not None else ""

    @property
    def library(self) -> Any:
        """The `tokenizers.Tokenizer` that takes every text for text: for what only the library can say."""
        return self._plain

    @property
    def is_byte_level(self) -> bool:
        """Whether tokens are written in the printable byte alphabet, so that every text can be encoded."""
        return self._byte_level

    @cached_property
    def _byte_level(self) -> bool:
        return '"ByteLevel"' in self._decoder

    @cached_property
    def _continues(self) -> str:
        """What a token that continues a piece begins with, in a WordPiece vocabulary of bytes; else nothing."""
        model = self._control.model
        return model.continuing_subword_prefix if type(model).__name__ == "WordPiece" else ""

    @cached_property
    def _strips_blank(self) -> bool:
        """True for sentencepiece vocabularies, which put one blank before every text."""
        return '"Strip"' in self._decoder

    # ---- special tokens

    def token_id(self, token: str) -> int | None:
        """Id of a token by its name in the vocabulary."""
        found: int | None = self._control.token_to_id(token)
        return found

    def _role(self, name: str) -> int | None:
        """Id of `bos_token` and the like; the config holds a string or a mapping with "content"."""
        token = self.special_token(name)
        return self.token_id(token) if token else None

    def special_token(self, name: str) -> str | None:
        """The string of `bos_token`, `eos_token`, `pad_token` or `unk_token`, None when the config has none."""
        value = self.config.get(name)
        return value.get("content") if isinstance(value, dict) else value

    def _leading_special(self) -> list[int]:
        ids: list[int] = self._control.encode("", add_special_tokens=True).ids
        return ids[:-1] if ids and ids[-1] == self.eos_id and self.eos_id != self.bos_id else ids

    def _plain_encoder(self, ordinary: list[Any]) -> Any:
        """The encoder that knows no control tokens, but the `ordinary` added ones."""
        import tokenizers

        if ordinary:  # rare: read the file again and tell the library to treat all control tokens as text
            plain = tokenizers.Tokenizer.from_buffer(self._json)
            plain.no_padding()
            plain.no_truncation()
            plain.add_special_tokens(list(self.control_tokens))
            plain.encode_special_tokens = True
            return plain
        plain = tokenizers.Tokenizer(self._control.model)  # shares the vocabulary: no time, no memory
        for part in ("normalizer", "pre_tokenizer", "decoder"):
            if (value := getattr(self._control, part)) is not None:
                setattr(plain, part, value)
        return plain

    def _check_plain(self) -> None:
        for token in self.control_tokens:
            if not self.special_ids.isdisjoint(self._plain.encode(token, add_special_tokens=False).ids):
                raise UserError(
                    f"the text {token!r} would become a special token in this tokenizer, whatever is done",
                    "danlu reads BPE vocabularies; this one has special tokens among its words",
                )

    # ---- chats (the work is done in chat.py)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template for chats; of several named ones the default."""
        return chat.pick_template(self.config.get("chat_template"))

    def render_chat(
        self, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool, tools: list[Any] | None = None
    ) -> str:
        """Messages as the text the model was trained on, exactly as Hugging Face renders it."""
        return chat.render_chat(self, messages, add_generation_prompt=add_generation_prompt, tools=tools)

    def encode_chat(
        self, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool, tools: list[Any] | None = None
    ) -> list[int]:
        """Messages as ids; special strings inside the messages stay text."""
        return chat.encode_chat(self, messages, add_generation_prompt=add_generation_prompt, tools=tools)

    def encode_chat_with_mask(
        self, messages: Sequence[dict[str, Any]], *, tools: list[Any] | None = None
    ) -> tuple[list[int], list[int]]:
        """Ids, and 1 for each token that the assistant has to produce (its end-of-turn token too), else 0."""
        return chat.encode_chat_with_mask(self, messages, tools=tools)


def make_config(
    *,
    eos_token: str,
    pad_token: str | None = None,
    bos_token: str | None = None,
    special_tokens: Sequence[str] = (),
    chat_template: str | None = None,
) -> dict[str, Any]:
    """A `tokenizer_config.json` that Hugging Face's AutoTokenizer understands."""
    roles = {"eos_token": eos_token, "pad_token": pad_token, "bos_token": bos_token}
    others = [token for token in special_tokens if token not in roles.values()]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,  # else "a ," would be decoded as "a,"
        "additional_special_tokens": others,
        **{role: token for role, token in roles.items() if token is not None},
        **({"chat_template": chat_template} if chat_template is not None else {}),
    }


def _well_formed(text: str) -> str:
    """`text` as UTF-8 can hold it: surrogate pairs joined, lone surrogates replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path, "copy it again from where it came") if path.is_file() else {}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
