"""Topics: clusters of a corpus in two languages and the words that tell them apart."""

from __future__ import annotations

import numpy as np

from danlu.data.selecting.topics import document_words, topics_of_texts

SUBJECTS = {
    "操作系统": ["操作系统的内核", "操作系统管理进程", "内核调度进程", "内存由操作系统分配", "内核提供系统调用"],
    "唐诗": ["唐诗中的明月", "诗人写下七言绝句", "七言绝句讲究平仄", "唐诗三百首", "诗人的平仄与押韵"],
    "cooking": [
        "chop the onions finely",
        "simmer the onions with butter",
        "butter and flour",
        "the oven and the dough",
    ],
    "sailing": ["hoist the mainsail", "the mainsail and the rudder", "steer with the rudder", "the harbour at dawn"],
}


def _corpus() -> list[str]:
    random = np.random.default_rng(0)
    texts = []
    for sentences in SUBJECTS.values():
        for _ in range(30):
            texts.append("。\n".join(random.choice(sentences, 6)) + ".")
    return [texts[i] for i in random.permutation(len(texts))]


def test_topics_have_their_own_words() -> None:
    found = topics_of_texts(_corpus(), clusters=4)
    assert [topic.documents for topic in found] == [30] * 4
    words = [set(topic.words) for topic in found]
    for own in ({"操作系统", "内核"}, {"七言绝句", "平仄"}, {"onions", "butter"}, {"mainsail", "rudder"}):
        assert sum(own <= those for those in words) == 1, words
    for those in words:
        assert "操作系" not in those and "作系统" not in those
    assert not any("the" in topic.words[:4] for topic in found)
    assert len({example for topic in found for example in topic.examples}) == 12


def test_a_corpus_of_one_topic_shows_its_common_words() -> None:
    (topic,) = topics_of_texts(["天地玄黄，天地洪荒"] * 3, clusters=1)
    assert set(topic.words) == {"天地玄黄", "天地洪荒"}


def test_nothing_has_no_topics() -> None:
    assert topics_of_texts([]) == [] and topics_of_texts(["，。", ""]) == []


def test_words_are_not_cut_at_particles() -> None:
    words = document_words("系统的内核 foo bar2 v2")
    assert {"系统", "内核", "foo"} <= words and not {"的内核", "系统的"} & words
