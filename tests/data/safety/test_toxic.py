# ruff: noqa: E501  (texts, one a line)
from __future__ import annotations

import pytest

from danlu.data.safety.safe import LIMITS, exceeded
from danlu.data.safety.toxic import CATEGORIES, score_toxic

CLEAN = {
    "medical": "乳腺癌患者在治疗期间应定期复查。性功能障碍的病因包括内分泌疾病，医生会询问自慰、口交等性行为史，以判断感染途径。宫颈癌筛查每三年一次。"
    * 3,
    "medical_en": "Patients with sexual dysfunction report fewer orgasms; anal sex and oral sex raise the risk of infection. "
    "The clinic offers breast and penis examinations, and doctors ask about pornography use in a health survey. " * 3,
    "news": "警方打击网络色情，查获淫秽视频三千部。记者报道，法院以组织卖淫罪判处被告人有期徒刑，嫖娼者被处以拘留。色情网站被关闭，受害人获救。" * 3,
    "news_en": "Police closed a porn site and arrested the man who ran it; the court heard that victims were filmed. "
    "The report says that porn studios paid them nothing. Prosecutors called it exploitation. " * 3,
    "classical": "太史公曰：乐极则悲，淫乱之事，不可不察也。关关雎鸠，在河之洲；窈窕淑女，君子好逑。武帝时，方士进春药，帝服之而崩。" * 4,
    "history": "Nazi doctrine called its victims subhuman and vermin, and preached a master race and racial purity; historians of the "
    "genocide have shown how such words prepared the crime. " * 3,
    "novel": "“滚蛋！”老王骂道，“他妈的，你这个畜生！”说完他又坐下，望着窗外的雨。雨下了整整一夜，院子里的枣树落了一地叶子，"
    "谁也没有再说话。第二天清早，他挑着担子出了门，路上遇见卖豆腐的，两个人说了几句闲话。" * 2,
    "gene": "The XXX genotype and the SHIT protein family were studied by Cocks and Dick in Scunthorpe and Essex. " * 3,
}  # fmt: skip
TOXIC = {
    "adult": "激情视频 成人电影 国产自拍 偷拍自拍 无码 女优 裸聊 同城上门 约炮 成人网站在线观看 " * 3,
    "adult_en": "Hot girls webcam girls free porn videos milf creampie blowjob hardcore sex live sex cams nude pics xxx "
    * 3,
    "abuse": "你这个傻逼，脑残，操你，死全家，王八蛋，贱人，去死吧，狗日的杂种。" * 2,
    "hate": "这些劣等民族都该死，杀光他们，滚出中国，低等人，灭绝他们。" * 2,
}


@pytest.mark.parametrize("name", CLEAN)
def test_texts_that_name_such_things_stay(name: str) -> None:
    assert exceeded(score_toxic(CLEAN[name])) == ("", "")


@pytest.mark.parametrize("name", TOXIC)
def test_texts_that_are_such_things_go(name: str) -> None:
    category = name.partition("_")[0]
    scores = score_toxic(TOXIC[name])
    assert exceeded(scores)[0] == f"safety:{category}" and scores[category] > 3 * LIMITS[category]


def test_one_word_is_no_verdict_however_short_the_text() -> None:
    assert not any(score_toxic("fuck").values()) and not any(score_toxic("傻逼 傻逼 傻逼 傻逼 傻逼").values())


def test_scores() -> None:
    assert score_toxic("all is well") == dict.fromkeys(CATEGORIES, 0.0)
    assert score_toxic("You motherfucker", n_units=100, least=(1, 1))["abuse"] == 10.0
    assert score_toxic("the doctor noted: motherfucker", n_units=100, least=(1, 1))["abuse"] == 1.0
    assert score_toxic("Scunthorpe, shitake, classic") == dict.fromkeys(CATEGORIES, 0.0)
    assert exceeded(score_toxic(TOXIC["abuse"]), {}) == ("", "")
