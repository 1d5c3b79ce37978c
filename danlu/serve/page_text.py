"""The words of the chat page, in English and Chinese, and which of the two a browser wants.

A table for each language with the same keys (a test holds that). A language more is a table more.
"""

from __future__ import annotations

LANGUAGES = {"en": "English", "zh": "中文"}

TEXTS: dict[str, dict[str, str]] = {
    "en": {
        "ask": "Ask anything",
        "continue": "Begin a text; the model goes on with it",
        "hello": "What shall we talk about?",
        "hello_base": "Begin, and the model goes on",
        "about": "What you write does not leave this server.",
        "about_base": "This is a base model: it does not answer, it continues your text.",
        "send": "Send",
        "stop": "Stop",
        "new": "New conversation",
        "settings": "Settings",
        "close": "Close",
        "model": "Model",
        "language": "中文",
        "theme_auto": "Theme: as the system",
        "theme_light": "Theme: light",
        "theme_dark": "Theme: dark",
        "system": "System prompt",
        "system_hint": "What the model should know before the conversation",
        "temperature": "Temperature",
        "temperature_hint": "0 always takes the likeliest word; higher is freer",
        "top_p": "Top P",
        "top_p_hint": "Only the likeliest words up to this share",
        "max_tokens": "Most tokens in an answer",
        "seed": "Seed",
        "seed_hint": "Same seed, same answer; empty: a new one each time",
        "reset": "Restore defaults",
        "copy": "Copy",
        "copied": "Copied",
        "tokens": "{n} tokens",
        "speed": "{x} tokens/s",
        "finish_stop": "complete",
        "finish_length": "length limit",
        "finish_cancelled": "stopped",
        "failed": "That did not work",
        "too_long": "The conversation no longer fits into this model's {n} tokens. Start a new one, or shorten it.",
        "locked": "This server asks for its API key",
        "key": "API key",
        "unlock": "Open",
        "wrong_key": "That is not the key",
        "you": "You",
        "try_1": "Explain in two sentences what a tokenizer does",
        "try_2": "Write a Python function that reverses a list",
        "try_3": "Write a short poem about autumn rain",
        "try_base_1": "def quicksort(items):",
        "try_base_2": "Once upon a time",
        "try_base_3": "春眠不觉晓，",
    },
    "zh": {
        "ask": "想问什么？",
        "continue": "写个开头，模型接着写下去",
        "hello": "想聊点什么？",
        "hello_base": "你写开头，模型接着写",
        "about": "你写的内容不会离开这台服务器。",
        "about_base": "这是基座模型：它不回答问题，只把你的文字续写下去。",
        "send": "发送",
        "stop": "停止",
        "new": "新对话",
        "settings": "设置",
        "close": "关闭",
        "model": "模型",
        "language": "English",
        "theme_auto": "主题：跟随系统",
        "theme_light": "主题：浅色",
        "theme_dark": "主题：深色",
        "system": "系统提示词",
        "system_hint": "对话开始前模型应当知道的事",
        "temperature": "温度",
        "temperature_hint": "0 总取最可能的词，越高越自由",
        "top_p": "Top P",
        "top_p_hint": "只在累计概率达到此值的词里选",
        "max_tokens": "回答的最大词元数",
        "seed": "随机种子",
        "seed_hint": "种子相同，回答相同；留空则每次不同",
        "reset": "恢复默认",
        "copy": "复制",
        "copied": "已复制",
        "tokens": "{n} 词元",
        "speed": "{x} 词元/秒",
        "finish_stop": "完成",
        "finish_length": "达到长度上限",
        "finish_cancelled": "已停止",
        "failed": "没有成功",
        "too_long": "对话已超出此模型的 {n} 词元上下文。请开始新对话，或缩短内容。",
        "locked": "此服务器需要 API 密钥",
        "key": "API 密钥",
        "unlock": "进入",
        "wrong_key": "密钥不对",
        "you": "你",
        "try_1": "用两句话解释什么是分词器",
        "try_2": "写一个反转列表的 Python 函数",
        "try_3": "写一首关于秋雨的短诗",
        "try_base_1": "春眠不觉晓，",
        "try_base_2": "从前有座山，",
        "try_base_3": "def quicksort(items):",
    },
}


def preferred_language(accept_language: str) -> str:
    """The language of a browser's `Accept-Language`, English when it wants neither.

    >>> preferred_language("fr, zh-CN;q=0.9, en;q=0.8")
    'zh'
    """
    wanted: list[tuple[float, str]] = []
    for entry in accept_language.split(","):
        tag, _, quality = entry.strip().partition(";")
        try:
            weight = float(quality.strip().removeprefix("q=")) if quality else 1.0
        except ValueError:
            weight = 0.0
        wanted.append((-weight, tag.strip().lower().partition("-")[0]))
    for weight, tag in sorted(wanted, key=lambda pair: pair[0]):
        if tag in TEXTS and weight < 0:
            return tag
    return "en"
