"""core: the room under every other room.

What lives here knows nothing about language models: artifacts and the store that keeps them, stages and the
recipes that connect them, the runner, the event log and its terminal view, the probe of the machine, the one
text segmenter, and the two kinds of error. Everything else in danlu stands on these and they stand on nothing.
"""

from __future__ import annotations

STAGES: tuple[str, ...] = ()
