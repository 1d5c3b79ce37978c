"""Web pages with a known main text and known noise around it, for tests and for the bench.

Each page has sentences that must be found (`main`) and sentences that must not (`noise`): menus, cookie banners,
advertisements, lists of related articles, comments, footers.
"""

from __future__ import annotations

from dataclasses import dataclass

ENGLISH = [
    "The harbour was built in three stages, each of which took longer than the engineers had promised.",
    "Before the first stone was laid, divers mapped the sea floor and marked the places where mud was deepest.",
    "A wall of timber kept the water out while the masons worked below the level of the tide.",
    "When the second storm broke the wall, the work was stopped for a whole winter and the money ran out.",
    "Ships that had waited outside for days could finally unload in the shelter of the new pier.",
    "Today the old crane still stands at the end of the quay, although nothing has been lifted with it for years.",
]
CHINESE = [
    "这座港口分三个阶段修建，每一个阶段所花的时间都比工程师承诺的要长。",
    "在铺下第一块石头之前，潜水员测绘了海床，并标出了淤泥最深的地方。",
    "一道木墙把海水挡在外面，石匠们在潮位线以下继续施工。",
    "第二场风暴冲垮了木墙，工程停了整整一个冬天，资金也用完了。",
    "在外海等了好几天的船只，终于可以在新码头的遮蔽下卸货。",
    "如今，那台老起重机仍然立在码头尽头，尽管它已经多年没有吊起过任何东西。",
]
NOISE_EN = {
    "menu": "Products Pricing Careers Investors",
    "cookie": "We use cookies to improve your experience and to show you personalised offers.",
    "advertisement": "Buy now and save seventy percent on our premium running shoes",
    "related": "Ten secrets that dentists do not want you to know",
    "comment": "First! Great article, check out my channel for more",
    "footer": "All rights reserved. Imprint, terms of service and privacy policy",
}
NOISE_ZH = {
    "menu": "首页 产品中心 招聘信息 联系我们",
    "cookie": "本网站使用缓存文件以改善您的浏览体验并向您展示个性化广告。",
    "advertisement": "限时特惠，全场运动鞋三折起，立即抢购",
    "related": "震惊！医生绝不会告诉你的十个秘密",
    "comment": "沙发！楼主写得真好，关注我的频道看更多",
    "footer": "版权所有 京ICP备00000000号 隐私政策 服务条款",
}


@dataclass(frozen=True)
class Page:
    name: str
    html: str
    main: list[str]
    noise: list[str]


def _link_list(words: str) -> str:
    return "<ul>" + "".join(f'<li><a href="/{i}">{word}</a></li>' for i, word in enumerate(words.split())) + "</ul>"


def planted() -> list[Page]:
    """Pages in both languages and in the usual shapes of page."""
    pages = []
    for language, sentences, noise in (("en", ENGLISH, NOISE_EN), ("zh", CHINESE, NOISE_ZH)):
        joiner = " " if language == "en" else ""
        paragraphs = "".join(f"<p>{joiner.join(sentences[i : i + 2])}</p>" for i in range(0, 6, 2))
        title = "The harbour" if language == "en" else "港口"
        head = f'<head><meta charset="utf-8"><title>{title}</title><script>var tracking = "on";</script></head>'
        menu = f"<nav>{_link_list(noise['menu'])}</nav>"
        cookie = f'<div id="cookie-banner" class="cookie-consent"><p>{noise["cookie"]}</p><button>OK</button></div>'
        advert = f'<div class="advertisement ad-slot"><a href="/ad">{noise["advertisement"]}</a></div>'
        related = f'<aside class="related-posts"><ul><li><a href="/x">{noise["related"]}</a></li></ul></aside>'
        comment = (
            f'<section id="comments" class="comments"><div class="comment"><p>{noise["comment"]}</p></div></section>'
        )
        footer = f"<footer><p>{noise['footer']}</p></footer>"
        shapes = {
            "article": (
                f"{menu}{cookie}<article><h1>{title}</h1>{paragraphs}{advert}</article>{related}{comment}{footer}"
            ),
            "divs": (
                f'<div class="header">{menu}</div>{cookie}<div class="wrap">'
                f'<div class="content"><h2>{title}</h2>{paragraphs}</div>'
                f'<div class="sidebar">{related}{advert}</div></div><div class="footer">{noise["footer"]}</div>'
            ),
            "breaks": (
                f'<div id="nav">{_link_list(noise["menu"])}</div><div id="content">{"<br><br>".join(sentences)}</div>'
                f'<div id="footer">{noise["footer"]}</div>'
            ),
            "table": (
                f'<table><tr><td class="menu">{_link_list(noise["menu"])}</td><td class="main"><div class="post-body">'
                f"{paragraphs}</div></td></tr></table>{footer}"
            ),
        }
        for shape, body in shapes.items():
            html = f'<!DOCTYPE html><html lang="{language}">{head}<body>{body}</body></html>'
            pages.append(
                Page(
                    f"{language}-{shape}",
                    html,
                    sentences,
                    [text for text in noise.values() if text in body or text == noise["menu"]],
                )
            )
    return pages
