"""The KV cache in blocks: memory for tokens that exist, not for tokens that might come.

Attention needs the keys and values of every past token. One contiguous buffer per sequence must be as long as the
longest answer allowed, and most of it stays empty. Paging cuts the memory into blocks of `block_size` tokens
(PagedAttention, Kwon et al. 2023, section 4): a sequence holds a table of block numbers and takes another block when
its last one is full.

    layer l:   keys[l], values[l]      [n_blocks, block_size, n_kv_heads, head_dim]
    sequence:  table = [7, 8, 2]       token t is at row t % block_size of block table[t // block_size]

Block numbers are the same in all layers, so a table is kept once. Tokens come before heads in the layout because a
gather then copies whole blocks, and because neighbouring blocks are one stretch of memory: a table like [7, 8, 9] can
be read in place, without a copy (`KVCache.contiguous`). To make that the common case, a growing sequence first asks
for the block right behind its last one.

A full block is worth keeping after its sequence is gone: the next request with the same beginning (a system prompt, a
conversation so far) need not compute it. What a block holds is decided by its own tokens and by everything before
them, so it is known by a pair, checked token by token:

    (content number of the block before it, its tokens)  ->  block         content number 0: the beginning

A number below 0 is a beginning of another kind: the same tokens under an adapter have other keys and values.

Blocks are shared by counting who uses them. One that nobody uses is free, and still found, until `take` needs it: free
blocks wait in a line, those without content in front, then those unused for longest.

The compiled kernels keep the same memory in an order of their own inside a block (kernels/cpu/attention.h); whoever
writes a block also reads it, so nobody else needs to know. Keys and values in int8 exist in that order only.

The memory is asked for once, zeroed, and the operating system hands over its pages when they are first written: an
idle engine with a large pool costs nothing. Zeroed matters: attention over a padded batch multiplies the rows behind
a sequence's end by zero, and zero times an accidental NaN would be NaN.
"""

from __future__ import annotations

import itertools
import math
import mmap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from danlu.core.errors import UserError

Key = tuple[int, tuple[int, ...]]  # content number of the block before, tokens


class BlockPool:
    """Who uses which block, what unused ones still hold, and in which order they are taken.

    Free blocks are a doubly linked list in two arrays, so that taking any given one is O(1). Entry `n_blocks` is the
    sentinel: `_next[n_blocks]` is the first free block.
    """

    def __init__(self, n_blocks: int) -> None:
        self.n_blocks = n_blocks
        ring = n_blocks + 1
        self._next = [(i + 1) % ring for i in range(ring)]
        self._previous = [(i - 1) % ring for i in range(ring)]
        self._users = [0] * n_blocks
        self._key: list[Key | None] = [None] * n_blocks  # of blocks that can be found
        self._content = [0] * n_blocks  # their content numbers
        self._found: dict[Key, int] = {}
        self._numbers = itertools.count(1)
        self.n_free = n_blocks

    def take(self, wanted: int = -1) -> int:
        """Take block `wanted` if it is free and empty, else the first free one. The pool must not be empty."""
        assert self.n_free, "take from an empty pool"
        fits = 0 <= wanted < self.n_blocks and not self._users[wanted] and self._key[wanted] is None
        block = wanted if fits else self._next[self.n_blocks]
        self._unlink(block)
        self._users[block] = 1
        self._forget(block)
        return block

    def share(self, block: int) -> None:
        """Use a block that was found, beside whoever uses it."""
        if not self._users[block]:
            self._unlink(block)
        self._users[block] += 1

    def give(self, block: int) -> None:
        """One user less. Unused, it waits at the end of the line if it holds something, else at the front.

        The front: the block used last is the one most likely still in the CPU's cache.
        """
        assert self._users[block], f"block {block} was given back twice"
        self._users[block] -= 1
        if self._users[block]:
            return
        before = self.n_blocks if self._key[block] is None else self._previous[self.n_blocks]
        after = self._next[before]
        self._next[before], self._previous[block] = block, before
        self._next[block], self._previous[after] = after, block
        self.n_free += 1

    def is_free(self, block: int) -> bool:
        return not self._users[block]

    def find(self, before: int, tokens: tuple[int, ...]) -> tuple[int, int] | None:
        """(block, content number) of these tokens behind that content, or None."""
        block = self._found.get((before, tokens))
        return None if block is None else (block, self._content[block])

    def remember(self, block: int, before: int, tokens: tuple[int, ...]) -> int:
        """Let a full block be found; returns its content number, that of its twin if one is known already."""
        known = self.find(before, tokens)
        if known is not None:
            return known[1]
        key = (before, tokens)
        self._key[block], self._found[key] = key, block
        self._content[block] = next(self._numbers)
        return self._content[block]

    def _forget(self, block: int) -> None:
        key = self._key[block]
        if key is not None:
            del self._found[key]
            self._key[block] = None

    def _unlink(self, block: int) -> None:
        before, after = self._previous[block], self._next[block]
        self._next[before], self._previous[after] = after, before
        self.n_free -= 1

    def check(self, tables: Iterable[list[int]]) -> None:
        """Assert that every block has as many users as tables that hold it, and that the list is sound."""
        free, at = [], self._next[self.n_blocks]
        while at != self.n_blocks:
            assert self._previous[self._next[at]] == at, f"the links around block {at} disagree"
            free.append(at)
            at = self._next[at]
        held = Counter(block for table in tables for block in table)
        assert len(free) == self.n_free == self._users.count(0), "the count of free blocks is wrong"
        assert all(self._users[block] == held[block] for block in range(self.n_blocks)), "a block is lost"
        assert sorted([*free, *held]) == list(range(self.n_blocks)), "a block is in use and in the free list"
        assert all(self._key[block] == key for key, block in self._found.items()), "a block is found by another key"
        assert len(self._found) == sum(key is not None for key in self._key)


@dataclass(frozen=True)
class CacheShape:
    """What one token costs in the cache."""

    n_layers: int
    n_kv_heads: int
    head_dim: int
    dtype: torch.dtype = torch.float32

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.n_layers * self.n_kv_heads * self.head_bytes

    @property
    def head_bytes(self) -> int:
        """Of the key, or the value, of one head of a token. In int8 it has a float32 scale."""
        return self.head_dim * self.dtype.itemsize + (4 if self.dtype == torch.int8 else 0)


class KVCache:
    """The pool of blocks, and the tensors they number."""

    def __init__(self, shape: CacheShape, n_blocks: int, block_size: int, device: torch.device | str = "cpu") -> None:
        self.shape, self.block_size, self.n_blocks = shape, block_size, n_blocks
        self.pool = BlockPool(n_blocks)
        width = shape.head_bytes // shape.dtype.itemsize
        size = (shape.n_layers, 2, n_blocks, block_size, shape.n_kv_heads, width)
        self.memory = memory = _zeros(size, shape.dtype, torch.device(device))
        self.keys = [memory[layer, 0] for layer in range(shape.n_layers)]  # each [n_blocks, block_size, Hkv, hd]
        self.values = [memory[layer, 1] for layer in range(shape.n_layers)]
        # The same memory without the border between blocks, [n_blocks * block_size, Hkv, hd]: row `slot` is one token.
        self.key_slots = [keys.flatten(0, 1) for keys in self.keys]
        self.value_slots = [values.flatten(0, 1) for values in self.values]

    @property
    def capacity(self) -> int:
        """How many tokens the cache holds when it is full."""
        return self.n_blocks * self.block_size

    @property
    def n_used(self) -> int:
        return self.n_blocks - self.pool.n_free

    def blocks_for(self, n_tokens: int) -> int:
        return -(-n_tokens // self.block_size)

    def grow(self, table: list[int], n_tokens: int) -> bool:
        """Extend `table` in place until it holds `n_tokens`. All or nothing: False, and no change, when it cannot."""
        missing = self.blocks_for(n_tokens) - len(table)
        if missing > self.pool.n_free:
            return False
        for _ in range(missing):
            table.append(self.pool.take(table[-1] + 1 if table else -1))
        return True

    def release(self, table: list[int]) -> None:
        """Give back all blocks of `table`, which is empty afterwards. Last first.

        So the next one taken is the first; and of a prefix that is kept, the end goes before the beginning.
        """
        while table:
            self.pool.give(table.pop())

    def known_prefix(self, tokens: list[int], root: int = 0) -> tuple[list[int], list[int]]:
        """The blocks that hold the longest known beginning of `tokens`, and their content numbers.

        `root` is the content number of the beginning. At least one token is left out: the one whose logits are
        wanted must be computed.
        """
        size = self.block_size
        blocks: list[int] = []
        contents: list[int] = []
        for start in range(0, len(tokens) - size, size):
            found = self.pool.find(contents[-1] if contents else root, tuple(tokens[start : start + size]))
            if found is None:
                break
            blocks.append(found[0])
            contents.append(found[1])
        return blocks, contents

    def remember(self, table: list[int], tokens: list[int], computed: int, contents: list[int], root: int = 0) -> None:
        """Let full blocks of `table` be found; `tokens[:computed]` is in them.

        `contents` has the numbers of those that were known before; it grows.
        """
        size = self.block_size
        for index in range(len(contents), computed // size):
            before = contents[-1] if contents else root
            held = tuple(tokens[index * size : (index + 1) * size])
            contents.append(self.pool.remember(table[index], before, held))

    @staticmethod
    def contiguous(table: list[int]) -> bool:
        """True when the blocks lie one behind the other, so that they can be read in place."""
        return table[-1] - table[0] == len(table) - 1 and all(b == a + 1 for a, b in pairwise(table))

    def check(self, tables: Iterable[list[int]]) -> None:
        self.pool.check(tables)


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros. On a CPU they are the system's own pages, which it makes when they are written.

    torch.zeros would write them all now: five gigabytes take ten seconds. np.zeros asks for huge pages, and the first
    token of a model of 30 layers, one page in each of 60 places, would wait for 120 MB of zeros.
    """
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    pages = mmap.mmap(-1, math.prod(size) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(size)


def plan_blocks(
    shape: CacheShape, block_size: int, *, max_context: int, max_sequences: int, kv_bytes: int | None, free_bytes: int
) -> int:
    """How many blocks to allocate.

    With `kv_bytes` as many as fit in it. Without, as many as `max_sequences` full contexts need, but at most a quarter
    of `free_bytes` (the rest is for the weights of other models and for activations; a guess, not tuned).
    Raises UserError when not even one block fits.
    """
    per_block = shape.bytes_per_token * block_size
    wanted = -(-max_context // block_size) * max_sequences
    limit = kv_bytes if kv_bytes is not None else free_bytes // 4
    n_blocks = min(wanted, limit // per_block)
    if n_blocks < 1:
        raise UserError(
            f"the KV cache of {limit:,} bytes is too small for one block of {block_size} tokens ({per_block:,} bytes)",
            "raise kv_bytes",
        )
    return n_blocks
