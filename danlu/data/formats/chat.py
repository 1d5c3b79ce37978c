"""Chat exports as conversations: Telegram, Slack and WeChat (JSON), WhatsApp and WeChat (text).

    小明: 明天几点出发？
    小红: 八点，老地方见。

A conversation is what is said without a pause of more than three hours; each is one document, and its place is the time
of its first message. Who speaks is named, since a model has to learn turns. Notices ("X joined"), and placeholders for
pictures and voice, are no messages. Names and times are personal data, as the texts are.

| export           | told by                                                                      |
|------------------|------------------------------------------------------------------------------|
| Telegram (JSON)  | messages with `type`, `date`, `from`, `text` (a string, or a list of parts)   |
| Slack (JSON)     | a list of messages with `type`, `ts`, `user`, `text`                          |
| WeChat (JSON)    | a list of messages with `CreateTime` and `StrContent`, or `createTime`, `content` |
| WhatsApp (text)  | lines `[31.12.23, 22:01:00] Name: words` or `12/31/23, 10:01 PM - Name: words` |
| WeChat (text)    | lines `2023-12-31 22:01:00 Name` or `Name 2023-12-31 22:01:00`, then the words   |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

PAUSE = 3 * 3600  # seconds; not tuned
_SNIFFED_LINES = 12
_PLACEHOLDER = re.compile(
    r"^(?:<[^<>]{3,40}(?:omitted|weggelassen|omis)>|\u200e?.{2,30} omitted|\[(?:图片|语音|视频|表情|动画表情|文件|链接|"
    r"位置|红包|转账|通话|名片|Photo|Sticker|Video|Voice|Audio)\]|<媒体文件已忽略>)$"
)
_WHATSAPP = re.compile(
    r"^\u200e?\[?(\d{1,4})[./-](\d{1,2})[./-](\d{2,4}),? (?:(上午|下午|凌晨|早上|中午|晚上))?"
    r"(\d{1,2})[:.](\d{2})(?:[:.](\d{2}))?"
    r"[ \u202f]?([AaPp]\.?[Mm]\.?)?(?:\] | - )([^:\n]{1,60}): (.*)$"
)
_WHATSAPP_NOTICE = re.compile(r"^\u200e?\[?\d{1,4}[./-]\d{1,2}[./-]\d{2,4},? [^\n]{4,20}(?:\] | - )")
_WECHAT_HEAD = re.compile(
    r"^(?:(?P<first>\d{4}-\d{2}-\d{2} \d{2}:\d{2}(?::\d{2})?) (?P<name>\S[^\n]{0,60})|"
    r"(?P<name2>\S[^\n]{0,60}?) +(?P<last>\d{4}-\d{2}-\d{2} \d{2}:\d{2}(?::\d{2})?))$"
)


@dataclass(frozen=True)
class Message:
    seconds: float  # since 1970; differences are what counts, so time zones do not
    speaker: str
    text: str


def chat_records(value: Any) -> list[tuple[str, dict[str, Any]]] | None:
    """The conversations of a JSON export as (place, record); None when the value is no chat export."""
    chats: list[tuple[str, list[Any]]] = []
    if isinstance(value, dict):
        listed = value.get("chats")
        found = listed.get("list") if isinstance(listed, dict) else None
        holders = found if isinstance(found, list) else [value]
        chats = [
            (str(chat.get("name") or ""), chat["messages"])
            for chat in holders
            if isinstance(chat, dict) and isinstance(chat.get("messages"), list)
        ]
    elif isinstance(value, list):
        chats = [("", value)]
    records: list[tuple[str, dict[str, Any]]] = []
    known = False
    for number, (name, rows) in enumerate(chats):
        read = next((read for told, read in _JSON_KINDS if any(map(told, rows[:_SNIFFED_LINES]))), None)
        if read is None:
            continue
        known = True
        messages = [message for row in rows if isinstance(row, dict) and (message := read(row))]
        prefix = f"#{number}/" if len(chats) > 1 else "#"
        records += [(prefix + when, record) for when, record in _conversations(messages, name)]
    return records if known else None


def chat_of_text(text: str) -> list[tuple[str, dict[str, Any]]] | None:
    """The conversations of a text export; None when the text is none (its first lines do not look like one)."""
    lines = text.split("\n", 200)[:200]
    head = [line for line in lines if line.strip()][:_SNIFFED_LINES]
    if len(head) >= 2 and _WHATSAPP_NOTICE.match(head[0]) and sum(bool(_WHATSAPP.match(line)) for line in head) >= 2:
        return _conversations(_whatsapp(text.split("\n")), "")
    heads = [bool(_WECHAT_HEAD.match(line.strip())) for line in head]
    if len(head) >= 4 and heads[0] and sum(heads) * 3 >= len(head):
        return _conversations(_wechat_text(text.split("\n")), "")
    return None


def _conversations(messages: Iterable[Message], title: str) -> list[tuple[str, dict[str, Any]]]:
    """Cut at pauses; a conversation needs two messages to be one."""
    groups: list[list[Message]] = []
    before: float | None = None
    for message in messages:
        if not message.text.strip() or _PLACEHOLDER.match(message.text.strip()):
            continue
        if before is None or abs(message.seconds - before) > PAUSE:
            groups.append([])
        groups[-1].append(message)
        before = message.seconds
    found = []
    seen: dict[str, int] = {}
    for group in groups:
        when = datetime.fromtimestamp(group[0].seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        seen[when] = seen.get(when, 0) + 1
        place = when + (f".{seen[when]}" if seen[when] > 1 else "")
        text = "\n".join(f"{message.speaker}: {message.text.strip()}" for message in group)
        record: dict[str, Any] = {"text": text, "date": when}
        found.append((place, record | ({"title": title} if title else {})))
    return found


# ---- JSON ------------------------------------------------------------------------------------------------------


def _telegram(row: dict[str, Any]) -> Message | None:
    if row.get("type") != "message":
        return None
    text = row.get("text", "")
    if isinstance(text, list):
        text = "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in text if _is_part(part))
    return _message(row.get("date"), row.get("from") or row.get("from_id"), text)


def _is_part(part: Any) -> bool:
    return isinstance(part, str | dict)


def _slack(row: dict[str, Any]) -> Message | None:
    if row.get("type") != "message" or row.get("subtype") not in (None, "thread_broadcast", "me_message"):
        return None
    profile = row.get("user_profile")
    name = profile.get("display_name") or profile.get("real_name") if isinstance(profile, dict) else None
    text = str(row.get("text") or "")
    text = re.sub(r"<(?:https?://[^<>|]*)\|([^<>]*)>", r"\1", text)
    text = re.sub(r"<([@#!])([^<>|]*)(?:\|([^<>]*))?>", lambda found: found[1] + (found[3] or found[2]), text)
    return _message(row.get("ts"), name or row.get("user"), text)


def _wechat(row: dict[str, Any]) -> Message | None:
    text = row.get("StrContent", row.get("content", row.get("msg", "")))
    kind = row.get("Type", row.get("type", 1))
    if str(kind) not in ("1", "文本", "text", "文本消息"):
        return None
    name = next(
        (
            row[key]
            for key in ("NickName", "nickname", "Remark", "senderDisplayName", "sender", "talker")
            if row.get(key)
        ),
        None,
    )
    if name is None:
        name = (
            "我"
            if row.get("IsSender", row.get("isSend", row.get("is_sender"))) in (1, "1", True)
            else row.get("StrTalker")
        )
    return _message(row.get("CreateTime", row.get("createTime")), name, text)


_JSON_KINDS = (
    (lambda row: isinstance(row, dict) and {"type", "date", "text"} <= row.keys() and "from" in row, _telegram),
    (lambda row: isinstance(row, dict) and {"type", "ts", "text"} <= row.keys(), _slack),
    (
        lambda row: (
            isinstance(row, dict)
            and bool({"CreateTime", "createTime"} & row.keys())
            and bool({"StrContent", "content", "msg"} & row.keys())
        ),
        _wechat,
    ),
)


def _message(when: Any, speaker: Any, text: Any) -> Message | None:
    seconds = _seconds(when)
    if seconds is None or not isinstance(text, str):
        return None
    return Message(seconds, " ".join(str(speaker or "?").split())[:60], text)


def _seconds(when: Any) -> float | None:
    """Seconds since 1970 of a number, a numeric string (also milliseconds) or an ISO time; None when it is none."""
    try:
        seconds = float(when)
    except (TypeError, ValueError):
        try:
            found = datetime.fromisoformat(str(when).strip())
        except ValueError:
            return None
        seconds = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    seconds = seconds / 1000 if seconds > 1e11 else seconds
    return seconds if 0 <= seconds < 1e11 else None


# ---- text ------------------------------------------------------------------------------------------------------


def _whatsapp(lines: list[str]) -> Iterator[Message]:
    """Messages may have several lines. Day and month are told apart by values above 12, else day first."""
    month_first = any(int(found[2]) > 12 for line in lines if (found := _WHATSAPP.match(line)) and len(found[1]) < 4)
    current: Message | None = None
    for line in lines:
        line = line.rstrip("\r")
        found = _WHATSAPP.match(line)
        if found is None and not _WHATSAPP_NOTICE.match(line):
            if current is not None:
                current = Message(current.seconds, current.speaker, f"{current.text}\n{line}")
            continue
        if current is not None:
            yield current
        current = None
        if found is not None and (seconds := _whatsapp_time(found, month_first)) is not None:
            current = Message(seconds, found[9].strip(), found[10].replace("\u200e", ""))
    if current is not None:
        yield current


def _whatsapp_time(found: re.Match[str], month_first: bool) -> float | None:
    a, b, c = int(found[1]), int(found[2]), int(found[3])
    year, month, day = (a, b, c) if len(found[1]) == 4 else (c, a, b) if month_first else (c, b, a)
    hour = int(found[5])
    afternoon = (found[8] or "").lower().startswith("p") or found[4] in ("下午", "晚上")
    if found[8] or found[4]:
        hour = hour % 12 + 12 * afternoon if found[4] != "中午" else 12
    try:
        when = datetime(year + 2000 * (year < 100), month, day, hour, int(found[6]), int(found[7] or 0), tzinfo=UTC)
    except ValueError:
        return None
    return when.timestamp()


def _wechat_text(lines: list[str]) -> Iterator[Message]:
    current: Message | None = None
    for line in lines:
        found = _WECHAT_HEAD.match(line.strip())
        if found is None:
            if current is not None:
                current = Message(current.seconds, current.speaker, f"{current.text}\n{line.rstrip()}")
            continue
        if current is not None:
            yield current
        current = _message(found["first"] or found["last"], (found["name"] or found["name2"]).strip("'\"()"), "")
    if current is not None:
        yield current
