"""The printable byte alphabet of byte-level BPE: 256 characters that stand for the 256 bytes.

`tokenizer.json` is JSON, and JSON holds text, not bytes; half a Chinese character is no text. So each byte gets a
character: printable ASCII and Latin-1 stand for themselves, the other 68 bytes (controls, blank, 0x7f to 0xa0,
0xad) take the code points from 256 on, in order. A blank becomes "Ġ" (256 + 32), a line end "Ċ".

>>> to_alphabet("中 a".encode())
'ä¸ŃĠa'
>>> from_alphabet('ä¸ŃĠa').decode()
'中 a'

Source: Radford et al. 2019, the GPT-2 tokenizer, whose table all later byte-level vocabularies kept.
"""

from __future__ import annotations


def _table() -> dict[int, str]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


BYTE_TO_CHARACTER: dict[int, str] = _table()
CHARACTER_TO_BYTE: dict[str, int] = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}
# The bytes in the order in which a trainer numbers them: by the code point of their character.
BYTE_ORDER: list[int] = [CHARACTER_TO_BYTE[c] for c in sorted(CHARACTER_TO_BYTE)]


def to_alphabet(data: bytes) -> str:
    """Bytes as alphabet characters, one each."""
    return "".join(BYTE_TO_CHARACTER[byte] for byte in data)


def from_alphabet(text: str) -> bytes:
    """Back to bytes. A string with any other character is a token added as plain text: its UTF-8 bytes."""
    try:
        return bytes(CHARACTER_TO_BYTE[character] for character in text)
    except KeyError:
        return text.encode("utf-8", "replace")
