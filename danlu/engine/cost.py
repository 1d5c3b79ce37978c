"""What steps take, learnt from the steps that were done, and how much of a step prompts may have.

**Prompts beside answers.** A step of decoding rows is short, and a prompt that joins it makes all of them wait. So a
prompt gets as many tokens as make the step `stall` times as long as it would be undisturbed:

    tokens of prompts  =  (stall - 1) * claim * alone / token,      claim = max(1, reading / sqrt(decoding))

    alone       seconds of a step with these decoding rows and nothing else
    token       seconds that one more token of a prompt adds to it
    reading     sequences that read a prompt or wait to;  decoding: those that make an answer

Worked example: 9 rows take 10 ms and a token of a prompt 0.5 ms. With `stall = 2` one prompt gets 20 tokens a step,
which then takes 20 ms: answers come at half their speed and the prompt is read at half of its own. 12 prompts have a
claim of 4 and get 80 tokens. When nobody decodes, prompts have the whole step.

The claim is a compromise. Each step has a cost of its own, so many short ones lose throughput: with
`reading / decoding`, the same time for each sequence, 32 requests at once lost too much of it. With `reading`, one
decoding step for each that waits, answers stood still as if there were no rule. This is the geometric mean.

**How it is measured.** `alone` cannot be told from steps that also read: they show only the sum, and an error in one
part hides in the other. So where no step without prompts was seen lately, or only ones of other sizes, the next step
reads nothing. That costs prompts one short step in `AGE`; two, when the first took suspiciously long: time that was
stolen from it would be given to prompts in all the steps that follow, and two in a row are seldom disturbed. What a
mixed step then takes beyond `alone` belongs to its prompt tokens; it grows along a prompt (attention reads more and
more), so it is a moving average. If the machine gets slower as a whole, both get longer and their ratio, which is all
that matters, stays.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from danlu.engine.scheduler import Step

FADE = 0.2  # weight of a new measurement in a moving average
FLOOR = 4  # tokens that prompts get at least, however short the steps are (not tuned)
AGE = 32  # a step without prompts counts as seen lately for so many steps
SUSPICIOUS = 1.25  # times as long as expected: measured again (not tuned)


def blend(old: float, new: float) -> float:
    """A moving average; one step during which the machine was away counts at most double."""
    return old + FADE * (min(new, 2 * old) - old)


class StepCost:
    """Seconds of a step by its number of rows: the measured ones, and a straight line between them.

    What disturbs a step makes it longer, never shorter, so a shorter one is believed sooner.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def observe(self, rows: int, seconds: float) -> None:
        old = self._seconds.get(rows)
        self._seconds[rows] = (
            seconds if old is None else old + (0.5 if seconds < old else 0.1) * (min(seconds, 2 * old) - old)
        )

    def __call__(self, rows: int) -> float:
        known = self._seconds
        if rows in known or not known:
            return known.get(rows, 0.0)
        below = max((n for n in known if n < rows), default=None)
        above = min((n for n in known if n > rows), default=None)
        if below is None:
            assert above is not None
            return known[above]
        if above is None:
            return known[below] * rows / below
        share = (rows - below) / (above - below)
        return known[below] + share * (known[above] - known[below])


class PromptShare:
    """How many tokens of prompts a step may have beside those that decode. Called by the scheduler."""

    def __init__(self, stall: float) -> None:
        self._stall = stall
        self._rows = 0  # decoding rows of the steps without prompts that were seen last
        self._alone = 0.0  # their seconds
        self._age = 0  # steps since
        self._doubted: float | None = None  # seconds of one that took suspiciously long
        self._token: float | None = None  # seconds
        self._mixed = False  # whether `_token` was measured beside others that decode
        self._read = (0, 0.0)  # tokens and seconds of steps that were perhaps not waited for

    def __call__(self, decoding: int, reading: int) -> float:
        """Tokens. 0 asks for a step without prompts, to measure it; that is asked twice in a row at most."""
        if not self._known(decoding):
            return 0
        claim = max(1.0, reading / sqrt(decoding))
        return max(FLOOR, (self._stall - 1) * claim * self._alone_of(decoding) / self._token_of(decoding))

    def observe(self, step: Step, seconds: float) -> None:
        """What a step took, after it sampled. One with drafts says nothing: no prompt is read beside them."""
        chunks = [n for sequence, n in step if n > 1 + len(sequence.drafts)]
        decoding, tokens = len(step) - len(chunks), sum(chunks)
        self._age += 1
        if not decoding:
            self._observe_reading(step, tokens, seconds)
        elif tokens and self._known(decoding):
            old, new = self._token_of(decoding), (seconds - self._alone_of(decoding)) / tokens
            self._token = blend(old, max(new, old / 2))  # noise may make a small chunk look free
            self._mixed = True
        elif not tokens and not any(sequence.drafts for sequence, _ in step):
            self._observe_alone(decoding, seconds)

    def _observe_alone(self, decoding: int, seconds: float) -> None:
        if self._known(decoding):
            self._alone = blend(self._alone_of(decoding), seconds)
        elif self._doubted is not None:
            self._alone = min(seconds, self._doubted)
        elif self._rows and seconds > SUSPICIOUS * self._alone * max(1.0, decoding / self._rows):
            self._doubted = seconds
            return
        else:
            self._alone = seconds
        self._rows, self._age, self._doubted = decoding, 0, None

    def _observe_reading(self, step: Step, tokens: int, seconds: float) -> None:
        """Until a token was measured beside others, what it took when nobody decoded stands in.

        A GPU answers before it is done unless something is sampled, so steps are added up to one that samples.
        """
        if self._mixed:
            return
        self._read = (self._read[0] + tokens, self._read[1] + seconds)
        if any(len(sequence.tokens) <= sequence.computed + 1 for sequence, _ in step):
            self._token = self._read[1] / self._read[0]
            self._read = (0, 0.0)

    def _known(self, decoding: int) -> bool:
        return self._age < AGE and self._rows <= 2 * decoding and decoding <= 2 * self._rows

    def _alone_of(self, decoding: int) -> float:
        """Rather too little than too much: fewer rows take at least their part of it, more at least as much."""
        return self._alone * min(1.0, decoding / self._rows)

    def _token_of(self, decoding: int) -> float:
        """Before anything was read: a row of a prompt as dear as one that decodes, which is too dear."""
        return self._token if self._token is not None else self._alone_of(decoding) / decoding
