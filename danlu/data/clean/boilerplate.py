"""Boilerplate lines: what a site says on every page, and what a printer adds to every sheet.

| reason     | examples                                                                        |
|------------|---------------------------------------------------------------------------------|
| cookies    | This site uses cookies to improve ...; 本网站使用 Cookie                        |
| share      | Share on Facebook; Tweet this; 分享到：微信 微博; 扫码关注                      |
| navigation | Skip to content; Previous post; Read more »; 上一篇：...; 返回顶部; 首页 > 新闻 |
| copyright  | © 2024 Example Inc. All rights reserved; 版权所有; 京ICP备12345678号            |
| credits    | 责任编辑：...; （编辑：...）; 来源：... alone on a line                         |
| account    | Log in to comment; Sign up for our newsletter; 登录后才能评论                   |
| scripts    | Please enable JavaScript                                                        |
| page       | - 12 -; Page 3 of 10; 第 3 页 共 10 页                         (furniture only) |
| head       | a short line that repeats beside the page numbers               (furniture only) |

A line goes when the pattern begins at its start and the line is short: a sentence about cookies in an article is long,
or has the word in its middle. Every removed line is returned with its reason. Page furniture is for text out of PDF and
scans and is off by default: "12" alone on a line may be a verse number.

>>> strip_boilerplate("正文第一句。\\n上一篇：无题\\n")
('正文第一句。\\n', [('navigation', '上一篇：无题')])
"""

from __future__ import annotations

import re
from collections import Counter

from danlu.data.literals import LiteralSet

Removed = list[tuple[str, str]]  # (reason, line)

# (reason, longest line, literals one of which the line must hold, pattern at the start of the stripped line)
_RULES: tuple[tuple[str, int, tuple[str, ...], re.Pattern[str]], ...] = tuple(
    (reason, longest, literals, re.compile(pattern, re.IGNORECASE))
    for reason, longest, literals, pattern in (
        ("cookies", 300, ("cookie",),
         r"(?:(?:this|our) (?:web)?site uses? cookies|we (?:and our partners )?use cookies|by (?:continuing|using|browsing|clicking)\b"
         r".{0,80}cookies?|(?:accept|reject|manage) (?:all )?cookies?|cookies? (?:policy|settings|preferences|consent|notice)\W*$|"
         r"(?:本|我们的?)(?:网站|站点|站)?.{0,8}使用.{0,6}cookies?)"),
        ("share", 60, ("share this", "share on", "share via", "share with", "share to", "\nshare", "\ntweet", "tweet this", "pin it",
          "分享到", "分享至", "分享给", "分享本文", "\n分享", "微信分享", "朋友圈", "豆瓣", "扫一扫", "扫码", "关注我们", "follow us", "like us"),
         r"(?:share (?:this|on|via|with|to)\b.{0,30}$|share\W*$|tweet(?: this)?\W*$|pin it\W*$|(?:follow|like) us on\b|"
         r"分享(?:到|至|给)[:：\s].{0,40}$|分享(?:到|至|本文|按钮)?\W*$|(?:微信|微博|qq空间?|朋友圈|豆瓣)(?:[\s|·、]+(?:微信|微博|qq空间?|朋友圈|豆瓣|分享))+\W*$|"
         r"(?:扫一扫|微信扫码|扫码)(?:.{0,12})(?:关注|分享|下载|阅读).{0,10}$|关注我们\W*$)"),
        ("navigation", 80,
         ("skip to ", " more\n", "read more", "previous post", "previous article", "previous page", "previous entry",
          "previous story", "next post", "next article", "next page", "next entry", "next story", "back to top", "related post",
          "related article", "related stories", "related link", "related reading", "上一篇", "下一篇", "上一页", "下一页", "上一章",
          "下一章", "\n返回", "\n首页", "更多\n", "全文\n", "更多>>", "相关阅读", "相关文章", "相关新闻", "相关链接", "相关推荐", "推荐阅读",
          "推荐文章", "延伸阅读", "热门文章", "热门推荐", "热门新闻", "leave a comment"),
         r"(?:skip to (?:main )?(?:content|navigation)\W*$|(?:read|load|see|view) more\W*$|read more (?:»|›|>|→|\.\.\.|…)|"
         r"(?:[«‹<←]\s*)?(?:previous|next) (?:post|article|page|entry|story)\b.{0,60}$|back to top\W*$|leave a comment\W*$|"
         r"related (?:posts?|articles?|stories|links?|reading)\W*$|[【\[]?(?:上一篇|下一篇|上一页|下一页|上一章|下一章)[】\]]?(?:[:：\s|]|$).{0,60}$|"
         r"返回(?:顶部|首页|列表|目录|上一页)\W*$|首页\s*[>›»|].{0,60}$|(?:阅读|查看|点击查看|加载)(?:更多|全文)\W*$|更多>>|"
         r"(?:相关|推荐|延伸|热门)(?:阅读|文章|新闻|推荐|链接)\W*$)"),
        ("copyright", 160, ("copyright", "©", "(c)", "all rights reserved", "版权所有", "版权声明", "icp备", "icp证", "公网安备",
                            "powered by", "未经授权", "转载请注明", "违法和不良信息"),
         r"(?:(?:copyright|©|\(c\))\s*(?:©|\(c\))?\s*(?:\d{4}|by\b).{0,140}$|all rights reserved\b.{0,40}$|.{0,60}\ball rights reserved\W*$|"
         r"版权所有.{0,80}$|.{0,40}[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼]icp[备证].{0,60}$|"
         r".{0,20}公网安备.{0,40}$|powered by\b.{0,40}$|(?:本文)?(?:未经授权|转载请注明).{0,60}$|版权声明[:：].{0,120}$|违法和不良信息举报.{0,60}$)"),
        ("credits", 50, tuple(f"{word}{colon}" for word in ("编辑", "责编", "校对", "审核", "来源", "稿源") for colon in ":："),
         r"[（(\[【]?(?:责任编辑|责编|本文编辑|编辑|校对|审核|文章来源|来源|稿源|新闻来源)[:：]\s*[^。！？]{1,36}[)）\]】]?$"),
        ("account", 100, ("log in ", "login ", "sign in ", "sign up for", "subscribe to", "register to", "登录后", "登陆后", "登录|", "登录 ", "登录/", "注册|",
          "注册 ", "注册/", "订阅我们"),
         r"(?:(?:please )?(?:log ?in|sign ?in|register)(?: or (?:register|sign ?up|log ?in))? to (?:comment|reply|post|view|continue|read)\b.{0,40}$|"
         r"sign up for (?:our|the)\b.{0,60}$|subscribe to (?:our|the) (?:newsletter|mailing list|channel|blog)\b.{0,50}$|"
         r"(?:登录|登陆|注册)[|/／\s]+(?:注册|登录)\W*$|(?:请)?(?:先)?登录后?(?:才能|才可以|可以?|即可|方可|再|后)(?:评论|查看|回复|发表|阅读|下载).{0,20}$|订阅我们.{0,20}$)"),
        ("scripts", 160, ("javascript",),
         r"(?:please )?(?:enable|turn on) javascript\b|javascript (?:is|must be|seems to be) (?:disabled|enabled|required|not)|"
         r"(?:您的|你的)浏览器.{0,12}javascript"),
    )
)  # fmt: skip
_LITERALS = LiteralSet(literal for _, _, literals, _ in _RULES for literal in literals)

_PAGE = re.compile(
    r"(?:[-–—·]\s*\d{1,4}\s*[-–—·]|\d{1,4}|page\s+\d{1,4}(?:\s+(?:of|/)\s*\d{1,4})?|\d{1,4}\s*/\s*\d{1,4}|[ivxl]{1,7}|"
    r"第\s*[\d一二三四五六七八九十百]{1,5}\s*页(?:\s*[,，/]?\s*共\s*\d{1,4}\s*页)?|\d{1,4}\s*页)$",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d+")


def strip_boilerplate(text: str) -> tuple[str, Removed]:
    """Take boilerplate lines away. Returns the text and what was removed, in order."""
    framed = f"\n{text}\n"  # literals may ask for the border of a line
    present = _LITERALS.present(framed)
    if not present:
        return text, []
    rules = [(reason, longest, pattern) for reason, longest, literals, pattern in _RULES if set(literals) & set(present)]
    removed: Removed = []
    parts: list[str] = []
    kept_to = 1
    for start in _line_starts(framed, present):
        end = framed.index("\n", start) + 1
        line = framed[start:end].strip()
        reason = _reason(line, rules)
        if reason:
            removed.append((reason, line))
            parts.append(framed[kept_to:start])
            kept_to = end
    if not removed:
        return text, []
    return "".join((*parts, framed[kept_to:-1])), removed


def _line_starts(framed: str, literals: tuple[str, ...]) -> list[int]:
    """Where the lines begin that hold one of the literals, in order."""
    lowered = framed.lower()
    if len(lowered) != len(framed):  # a few letters grow when lower-cased; places would be wrong
        return [match.end() for match in re.finditer("\n(?=[^\n])", framed)]
    starts = set()
    for literal in literals:
        at = literal.startswith("\n")  # then the line begins after it
        place = lowered.find(literal)
        while place >= 0:
            starts.add(lowered.rfind("\n", 0, place + at) + 1)
            place = lowered.find(literal, place + len(literal))
    return sorted(starts)


def _reason(line: str, rules: list[tuple[str, int, re.Pattern[str]]]) -> str:
    if not 1 < len(line) <= 300:
        return ""
    return next((reason for reason, longest, pattern in rules if len(line) <= longest and pattern.match(line)), "")


def strip_furniture(text: str) -> tuple[str, Removed]:
    """Take page numbers and running heads away. A text has pages when at least three lines look like page numbers and
    most of them grow; a running head stands at most two lines from one and repeats, but for digits, three times."""
    lines = text.split("\n")
    stripped = [line.strip() for line in lines]
    pages = [i for i, line in enumerate(stripped) if 0 < len(line) <= 24 and _PAGE.match(line)]
    if len(pages) < 3:
        return text, []
    numbers = [int(found.group()) for i in pages if (found := _DIGITS.search(stripped[i]))]
    grows = sum(0 < b - a <= 3 for a, b in zip(numbers, numbers[1:], strict=False))
    apart = min(b - a for a, b in zip(pages, pages[1:], strict=False))
    if grows < 0.6 * (len(pages) - 1) or (apart < 3 and len(lines) / len(pages) < 6):
        return text, []
    beside = {k for i in pages for k in range(max(0, i - 2), min(len(lines), i + 3)) if 1 < len(stripped[k]) <= 80}
    heads = Counter(_DIGITS.sub("#", stripped[k]) for k in beside - set(pages))
    gone: dict[int, str] = dict.fromkeys(pages, "page")
    gone |= {k: "head" for k in beside - set(pages) if heads[_DIGITS.sub("#", stripped[k])] >= 3}
    removed = [(gone[i], stripped[i]) for i in sorted(gone)]
    return "\n".join(line for i, line in enumerate(lines) if i not in gone), removed
