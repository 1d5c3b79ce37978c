"""Phrases and words that the measures count. Lists, no code: adding a phrase is adding it to a list.

`PHRASES` are looked for anywhere in the text, ASCII letters in any case, each kind by itself, from left to right and
never overlapping. A phrase has at least four bytes of UTF-8 (the compiled search looks at four at a time).

`STOP_WORDS` are counted as units, by language: those of Gopher for English (Rae et al. 2021, table A1), for Japanese
and Korean those of FineWeb2 that are one unit (its configs, 2025). The Chinese list is our own, because FineWeb2's is
made of dates and of words that no poem has: function words of the modern and of the classical language, in simplified
and traditional characters.

`COMMON_HAN` are the characters that a Chinese text is made of whatever it speaks about: a third of modern prose and a
sixth of Tang poetry. Text that was decoded wrongly, or strung together from keywords, has hardly any.
"""

from __future__ import annotations

from itertools import product


def _each(*parts: str) -> tuple[str, ...]:
    """All ways to choose one of the alternatives (separated by "|") of every part."""
    return tuple(map("".join, product(*(part.split("|") for part in parts))))


# Phrases of advertising. One is no crime; rules count them against the length of the text.
ADVERTISING = (
    *_each("加|加我", "微信|QQ|V信|薇信"),
    "扫码",
    *_each("点击", "领取|下载|注册|进入|链接|查看"),
    *_each("免费", "领取|试玩|注册"),
    "代开发票",
    "在线客服",
    *_each("官方", "下载|网址|注册"),
    *_each("网上", "赌场|娱乐"),
    *_each("真人", "娱乐|视讯"),
    "时时彩",
    "送彩金",
    "优惠券",
    *_each("限时", "抢购|特价"),
    "包邮",
    "click here",
    "buy now",
    "order now",
    *_each("limited |limited time ", "offer"),
    "free shipping",
    "act now",
    "best price",
    "online casino",
    "viagra",
    *_each("sign up ", "now|today"),
    "100% free",
    "work from home",
)

# Gambling, pornography, link selling and counterfeit papers: words that have few other uses. Two in a short page, or
# one in every hundred units, is an advertisement.
SPAM = (
    *_each("百家乐|老虎机|六合彩|北京赛车|快三|幸运飞艇|真钱|博彩", "平台|开户|网站|投注|官网|计划|游戏"),
    *_each("首存|注册|开户|充值|存款", "送|就送|即送"),
    *_each("澳门|皇冠|威尼斯人|太阳城|金沙|葡京", "赌场|娱乐城|国际娱乐|博彩|现金网"),
    *_each("棋牌|体育|彩票|电子", "投注|博彩|平台代理"),
    "娱乐城",
    "博彩公司",
    "稳赚不赔",
    "日赚千元",
    "刷单兼职",
    "办证刻章",
    "代办证件",
    "代写论文",
    "一夜情",
    "成人视频",
    "无码高清",
    "约炮",
    "迷情药",
    "友情链接交换",
    "外链代发",
    "快速排名优化",
    "百度排名优化",
    *_each("seo ", "services|packages|expert"),
    *_each("online ", "poker|slots|gambling|pharmacy|betting"),
    *_each("casino ", "bonus|online|games"),
    *_each("cheap ", "viagra|cialis|jordans|handbags"),
    *_each("replica ", "watches|handbags"),
    *_each("free ", "spins|porn"),
    "payday loan",
    "backlinks",
    "no deposit bonus",
    "make money fast",
)

# The kinds that C4 looks for (Raffel et al. 2020, section 2.2), and their Chinese counterparts.
PLACEHOLDER = ("lorem ipsum",)
SCRIPT = ("javascript",)
POLICY = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
    "隐私政策",
    "隐私声明",
    "隐私权政策",
    "用户协议",
    "服务条款",
    "使用条款",
    "免责声明",
    "版权所有",
    "版权声明",
    "未经授权",
    "浏览器不支持",
    "icp备",
    "icp证",
    "公网安备",
    "all rights reserved",
)
LINK = ("http://", "https://", "www.")
GENERATED = ("do not edit", "generated")  # where one of these is, the pattern of `measure` looks closer

# kind -> phrases. The order is the order of the counters in C++ (`data/scan/cpp/phrases.h`); at most 8 kinds.
PHRASES: dict[str, tuple[str, ...]] = {
    "advertising": ADVERTISING,
    "spam": SPAM,
    "placeholder": PLACEHOLDER,
    "script": SCRIPT,
    "policy": POLICY,
    "link": LINK,
    "generated": GENERATED,
}

STOP_WORDS: dict[str, tuple[str, ...]] = {
    "en": ("the", "be", "to", "of", "and", "that", "have", "with"),
    "zh": tuple("的了是在和不有我他这這也就都而之其以于於为為与與者何人一中"),
    "ja": tuple("のにをはたてがとで年し月れさ"),
    "ko": tuple("의다이는에을한년하은를했고가있인월로되"),
}

COMMON_HAN = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道"
    "行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心本前开但因只从想实日者意无它"
    "与长把十第此已使情明性知全三又关点正外将两高间由问很最重并手应向头文体相见被等二给她這個們來為國說時對於"
    "著過發後裡種經麼學現當沒動還進樣開從實無與長點將兩間問並應頭體見給會東關風何首雲春爲花月水歸清君未白老江"
    "秋公雨書今夜萬玉四空古寒南千世西客誰處門欲青酒五安新聲林送亦更百金雪深落飛復入思朝流言湖身光城王名盡游九"
    "非草香云风归书万处门声飞复尽夫曰矣乎吾汝兮"
)
