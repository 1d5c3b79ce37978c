from __future__ import annotations

import pytest

from danlu.data.language import detect


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("春眠不觉晓，处处闻啼鸟。", "zh"),
        ("在 PyTorch 里调用 torch.compile 可以加速模型的训练与推理，但第一次运行会慢。", "zh"),
        ("It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of fun", "en"),
        ("Hello, world", "en"),
        ("吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。", "ja"),
        ("모든 인간은 태어날 때부터 자유로우며", "ko"),
        ("Все люди рождаются свободными и равными", "other"),
        ("Il est interdit aux enfants sans leurs parents de jouer dans cette cour pendant que les voitures passent "
         "devant la maison du maire de ville", "other"),
        ("12345 67890 --- !!!", "other"),
    ],
)  # fmt: skip
def test_worked_examples(text: str, language: str) -> None:
    assert detect(text) == language


def test_a_long_text_is_judged_by_more_than_its_beginning() -> None:
    assert detect("Licence: " + "x" * 100 + "\n" + "天地玄黄，宇宙洪荒。" * 5_000) == "zh"
