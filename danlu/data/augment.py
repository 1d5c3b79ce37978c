"""More of what is scarce: documents said again, translated there and back, or mistyped. Stage `data.augment`.

    noise        typing errors in Chinese and English, drawn with a seed                       noise
    paraphrase   a model says the document in other words                                      remote
    translate    a model translates it, then translates the translation back                   remote

Originals are kept as they are; each new document is a row of its own with an id made of the original's and the method
("ID+paraphrase1"), and its `meta` says where it came from: `augmented_from`, `method`, `model` or `noise`. Only
training documents are augmented: a held-out one said again in training would no longer be held out. A rewriting that is
empty, the same as the original, or less than a third or more than three times as long goes to rejected-*.parquet
("augment:...").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from danlu.core.artifact import Artifact
from danlu.core.stage import StageConfig, StageRun, stage
from danlu.data.noise import KINDS
from danlu.data.remote import Endpoint

if TYPE_CHECKING:
    from danlu.data.document import Document
    from danlu.data.remote import Answer, Asker

Method = Literal["noise", "paraphrase", "translate"]
_ASKED_CHARS = 8_000  # longer documents are not sent: the answer would be cut off
_SHORTEST, _LONGEST = 1 / 3, 3.0  # of a rewriting, relative to the original

_PARAPHRASE = {
    "zh": "请用不同的措辞和句式重写下面的文字。意思、事实、数字和专名都不能变，不增不减。只写出重写后的文字。\n\n"
    "{text}",
    "en": "Rewrite the text below in other words and with other sentences. Keep its meaning, facts, numbers and "
    "names; add nothing and leave nothing out. Write the rewritten text only.\n\n{text}",
}
_TRANSLATE = {
    "en": "把下面的文字译成英文，忠实、通顺。只写出译文。\n\n{text}",
    "zh": "Translate the text below into Chinese, faithfully and fluently. Write the translation only.\n\n{text}",
}


class AugmentConfig(StageConfig):
    method: Method = "noise"
    copies: Annotated[int, Field(ge=1, le=100)] = 1
    """New documents made of each one."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the training documents that are augmented, drawn by the hash of their ids."""
    languages: list[str] = ["zh", "en"]
    """Documents of these languages only."""
    rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    """For noise: the share of units that are hit."""
    kinds: list[str] = list(KINDS)
    """For noise: which sorts."""
    endpoint: Endpoint | None = None
    """For paraphrase and translate: the model that is asked."""
    seed: int = 0

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> AugmentConfig:
        if self.method != "noise" and self.endpoint is None:
            raise ValueError(f"{self.method} asks a model: give endpoint.base_url and endpoint.model")
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"kinds: {sorted(unknown)} are not among {', '.join(KINDS)}")
        return self


@stage("data.augment", makes="corpus", takes={"corpus": "corpus"}, version="2")
def augment(config: AugmentConfig, run: StageRun, corpus: Artifact) -> dict[str, Any]:
    """Add documents made of others: typing noise, paraphrases, back-translations."""
    from danlu.core.artifact import write_json
    from danlu.data.remote import Asker
    from danlu.data.rewriting import gather, sums, tasks_of, work_through

    with run.graceful(), ExitStack() as stack:
        tasks = tasks_of({"corpus": corpus.path}, config=config.model_dump(mode="json"))
        work: str | Callable[[dict[str, Any], Path], None] = "danlu.data.augment:augment_piece"
        if config.endpoint is not None and config.method != "noise":
            asker = stack.enter_context(Asker(config.endpoint, run.work / "answers.sqlite"))
            work = partial(augment_piece, asker=asker, stop_if_asked=run.stop_if_asked)
        folders = work_through(work, tasks, run)
        gather(folders, run)
    counts = sums(folders)
    write_json(run.out / "report.json", {"method": config.method, **dict(sorted(counts.items()))})
    return {
        "documents": counts["originals"] + counts["made"] + counts["validation"],
        "made": counts["made"],
        "rejected": sum(n for name, n in counts.items() if name.startswith("augment:")),
    }


def augment_piece(
    task: dict[str, Any], folder: Path, asker: Asker | None = None, stop_if_asked: Callable[[], None] = lambda: None
) -> None:
    """The rows of a piece, each followed within a few hundred by what is made of it; counts.json says how many."""
    from danlu.core.artifact import write_json
    from danlu.data.rewriting import Outlets, document_batches
    from danlu.data.split import draw

    config = AugmentConfig(**task["config"])
    counts: Counter[str] = Counter()
    with Outlets(folder) as out:
        for split, batch in document_batches(task):
            for document in batch:
                out.put(split, document.row())
                counts["originals" if split == "train" else split] += 1
            if split != "train":
                continue
            drawn = [d for d in batch if d.language in config.languages and draw(d.id, "augment") < config.share]
            for made, reason in _make(config, drawn, asker, stop_if_asked):
                if reason:
                    out.put("rejected", {**made.row(), "reason": reason})
                else:
                    out.put("train", made.row())
                counts[reason or "made"] += 1
    write_json(folder / "counts.json", counts)


def _make(
    config: AugmentConfig, documents: list[Document], asker: Asker | None, stop_if_asked: Callable[[], None]
) -> Iterator[tuple[Document, str]]:
    """Each new document with the reason to drop it ("" to keep it)."""
    from danlu.data.noise import add_noise

    wanted = [(document, nth) for document in documents for nth in range(1, config.copies + 1)]
    if config.method == "noise":
        for document, nth in wanted:
            text, kinds = add_noise(document.text, f"{config.seed} {nth} {document.id}", config.rate, config.kinds)
            yield _made(config, document, nth, text, "", noise=kinds)
        return
    sent = [(document, nth) for document, nth in wanted if len(document.text) <= _ASKED_CHARS]
    for document, nth in wanted:
        if len(document.text) > _ASKED_CHARS:
            yield replace(document, id=_new_id(config, document, nth)), "augment:too_long"
    assert asker is not None and config.endpoint is not None
    answers = list(_until(stop_if_asked, asker.ask_all(_prompts(config, sent))))
    if config.method == "translate":
        there = answers
        home = [
            _TRANSLATE[_home(d)].replace("{text}", a.text) for (d, _), a in zip(sent, there, strict=True) if not a.error
        ]
        back = _until(stop_if_asked, asker.ask_all(home))
        answers = [answer if answer.error else next(back) for answer in there]
    for (document, nth), answer in zip(sent, answers, strict=True):
        yield _made(config, document, nth, answer.text.strip(), answer.error, model=config.endpoint.model)


def _until(stop_if_asked: Callable[[], None], answers: Iterable[Answer]) -> Iterator[Answer]:
    """The answers, until the user stops it: those that came are kept by the asker."""
    for answer in answers:
        stop_if_asked()
        yield answer


def _prompts(config: AugmentConfig, sent: list[tuple[Document, int]]) -> Iterator[list[dict[str, str]]]:
    """One question each. Copies after the first are asked for as another version, or all would be the same answer."""
    for document, nth in sent:
        if config.method == "translate":
            form = _TRANSLATE["en" if _home(document) == "zh" else "zh"]
        else:
            form = _PARAPHRASE[_home(document)]
        again = "" if nth == 1 else f"({nth}) "
        yield [{"role": "user", "content": again + form.replace("{text}", document.text)}]


def _home(document: Document) -> str:
    return "zh" if document.language == "zh" else "en"


def _made(
    config: AugmentConfig, document: Document, nth: int, text: str, error: str, **lineage: Any
) -> tuple[Document, str]:
    meta = document.meta | {"augmented_from": document.id, "method": config.method, **lineage}
    made = replace(document, id=_new_id(config, document, nth), text=text, meta=meta)
    if error:
        return replace(made, meta=meta | {"error": error}), "augment:failed"
    if not text.strip():
        return made, "augment:empty"
    if text == document.text:
        return made, "augment:unchanged"
    ratio = len(text) / max(len(document.text), 1)
    return made, "" if _SHORTEST <= ratio <= _LONGEST else "augment:length"


def _new_id(config: AugmentConfig, document: Document, nth: int) -> str:
    return f"{document.id}+{config.method}{nth}"
