# ruff: noqa: E501  (tables of tables, one row a line)
"""A planted set of personal data: sentences in Chinese and English that hold it, and sentences that nearly do.

    for case in plant(seed=1, n=2_000):  case.text, case.spans       spans: [(kind, start, end)], empty for a near miss

Valid values are made by their rules (checksums, ranges), in the forms people write them. Near misses are what such rules
are mistaken for: order numbers, numbers with one digit wrong, versions, ISBNs, timestamps, constants, formulas, hashes.
Everything comes from the seed. The same set is used by the tests and by bench/safety.py.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

Make = Callable[[random.Random], str]
CREDIT = "0123456789ABCDEFGHJKLMNPQRTUWXY"
PROVINCES = re.findall(
    r"\S+",
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65",
)
MOBILES = "130 131 133 135 136 137 138 139 147 150 151 152 157 158 159 166 170 171 176 177 178 180 182 186 188 189 191 198 199"
BASE62 = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Case:
    text: str
    spans: tuple[tuple[str, int, int], ...]
    source: str  # the name of the kind, or of the near miss


def digits(rng: random.Random, n: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(n))


def letters(rng: random.Random, n: int, alphabet: str = BASE62) -> str:
    return "".join(rng.choice(alphabet) for _ in range(n))


def birthday(rng: random.Random) -> str:
    return (date(1945, 1, 1) + timedelta(days=rng.randrange(27_000))).strftime("%Y%m%d")


# ---- valid values ----------------------------------------------------------------------------------------------


def id_card(rng: random.Random) -> str:
    head = (
        rng.choice(PROVINCES) + f"{rng.randrange(1, 30):02d}{rng.randrange(1, 30):02d}" + birthday(rng) + digits(rng, 3)
    )
    total = sum(int(digit) * pow(2, 17 - i, 11) for i, digit in enumerate(head))
    return head + "10X98765432"[total % 11]


def luhn(head: str) -> str:
    for check in string.digits:
        number = head + check
        total = sum(int(d) for d in number[-1::-2]) + sum(sum(divmod(2 * int(d), 10)) for d in number[-2::-2])
        if total % 10 == 0:
            return number
    raise AssertionError


def bank_card(rng: random.Random) -> str:
    prefix, length = rng.choice(
        [
            ("6222", 19),
            ("6217", 19),
            ("6225", 16),
            ("4", 16),
            ("51", 16),
            ("55", 16),
            ("37", 15),
            ("6011", 16),
            ("3530", 16),
        ]
    )
    number = luhn(prefix + digits(rng, length - len(prefix) - 1))
    if len(number) == 16 and rng.random() < 0.5:
        mark = rng.choice(" -")
        return mark.join(number[i : i + 4] for i in range(0, 16, 4))
    return number


def mobile(rng: random.Random) -> str:
    number = rng.choice(MOBILES.split()) + digits(rng, 8)
    form = rng.randrange(6)
    if form == 1:
        return f"{number[:3]}-{number[3:7]}-{number[7:]}"
    if form == 2:
        return f"{number[:3]} {number[3:7]} {number[7:]}"
    if form == 3:
        return f"+86 {number}"
    return f"+86{number}" if form == 4 else number


def landline(rng: random.Random) -> str:
    area, local = rng.choice([("010", 8), ("021", 8), ("0755", 8), ("0571", 8), ("0931", 7), ("0816", 7), ("025", 8)])
    number = rng.choice("2345678") + digits(rng, local - 1)
    return rng.choice([f"{area}-{number}", f"({area}){number}", f"{area} {number}", f"（{area}）{number}"])


def phone(rng: random.Random) -> str:
    area, middle, last = (
        f"{rng.choice('23456789')}{rng.choice('02345678')}{digits(rng, 1)}",
        f"{rng.choice('23456789')}{rng.choice('02345678')}{digits(rng, 1)}",
        digits(rng, 4),
    )
    forms = [
        f"({area}) {middle}-{last}",
        f"{area}-{middle}-{last}",
        f"{area}.{middle}.{last}",
        f"+1 {area} {middle} {last}",
        f"+1-{area}-{middle}-{last}",
    ]
    forms += [
        f"+44 20 7{digits(rng, 3)} {digits(rng, 4)}",
        f"+49 30 {rng.choice('123456789')}{digits(rng, 7)}",
        f"+81 3-{rng.choice('3456')}{digits(rng, 3)}-{digits(rng, 4)}",
        f"+33 6 {digits(rng, 2)} {digits(rng, 2)} {digits(rng, 2)} {digits(rng, 2)}",
    ]
    return rng.choice(forms)


def ssn(rng: random.Random) -> str:
    area = rng.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03d}-{rng.randrange(1, 100):02d}-{rng.randrange(1, 10_000):04d}"


def email(rng: random.Random) -> str:
    user = letters(rng, rng.randrange(3, 10), string.ascii_lowercase) + rng.choice(
        ["", ".li", "_88", "+news", digits(rng, 3)]
    )
    return f"{user}@{rng.choice(['gmail.com', '163.com', 'qq.com', 'mail.sjtu.edu.cn', 'company.co.uk', 'web.de', 'proton.me'])}"


def iban(rng: random.Random) -> str:
    country, body = rng.choice(
        [
            ("DE", digits(rng, 18)),
            ("GB", letters(rng, 4, string.ascii_uppercase) + digits(rng, 14)),
            ("FR", digits(rng, 23)),
            ("NL", "INGB" + digits(rng, 10)),
            ("ES", digits(rng, 20)),
        ]
    )
    check = 98 - int("".join(str(int(c, 36)) for c in body + country + "00")) % 97
    number = f"{country}{check:02d}{body}"
    return number if rng.random() < 0.5 else " ".join(number[i : i + 4] for i in range(0, len(number), 4))


def ipv4(rng: random.Random) -> str:
    first = rng.choice([23, 34, 45, 52, 61, 85, 101, 116, 123, 140, 151, 183, 185, 202, 210, 218, 221])
    return f"{first}.{rng.randrange(1, 255)}.{rng.randrange(1, 255)}.{rng.randrange(1, 255)}"


def ipv6(rng: random.Random) -> str:
    groups = [f"{rng.randrange(0x2400, 0x2A0F):x}", *(f"{rng.randrange(1, 0xFFFF):x}" for _ in range(3))]
    return ":".join(groups) + rng.choice(["::1", "::" + f"{rng.randrange(1, 0xFFFF):x}", ":1:2:3:4"])


def mac(rng: random.Random) -> str:
    return rng.choice(":-").join(f"{rng.randrange(256):02x}" for _ in range(6))


def plate(rng: random.Random) -> str:
    head = rng.choice("京沪粤苏浙鲁川豫冀湘鄂皖闽陕") + rng.choice("ABCDEFGHJK") + rng.choice(["", "·", ""])
    tails = [
        digits(rng, 5),
        "DF"[rng.randrange(2)] + digits(rng, 5),
        rng.choice("ABCDEFGHJKLMNP") + digits(rng, 4),
        digits(rng, 3) + letters(rng, 2, "ABCDEFGHJKLMNP"),
    ]
    return head + rng.choice(tails)


def credit_code(rng: random.Random) -> str:
    head = (
        "9"
        + rng.choice("123")
        + rng.choice(PROVINCES)
        + f"{rng.randrange(1, 30):02d}{rng.randrange(0, 30):02d}"
        + letters(rng, 9, CREDIT)
    )
    total = sum(CREDIT.index(c) * pow(3, i, 31) for i, c in enumerate(head))
    return head + CREDIT[-total % 31]


def api_key(rng: random.Random) -> str:
    return rng.choice(
        [
            "AKIA" + letters(rng, 16, string.ascii_uppercase + "234567"),
            "ghp_" + letters(rng, 36),
            "sk-proj-" + letters(rng, 40) + "A7",
            "AIza" + letters(rng, 35),
            f"xoxb-{digits(rng, 12)}-{letters(rng, 24)}",
            f"eyJ{letters(rng, 30)}.eyJ{letters(rng, 60)}.{letters(rng, 43)}",
            "glpat-" + letters(rng, 20),
        ]
    )


def secret(rng: random.Random) -> str:
    return letters(rng, 3, string.digits) + letters(rng, 21) + rng.choice("aK")


def private_key(rng: random.Random) -> str:
    name = rng.choice(["RSA ", "EC ", "OPENSSH ", ""])
    body = "\n".join(letters(rng, 64, BASE62 + "+/") for _ in range(8))
    return f"-----BEGIN {name}PRIVATE KEY-----\n{body}\n-----END {name}PRIVATE KEY-----"


def number_from(first: str, n: int) -> Make:
    return lambda rng: rng.choice(first) + digits(rng, n)


# kind, value, sentences with {} where it stands
VALID: tuple[tuple[str, Make, tuple[str, ...]], ...] = (
    ("id_card", id_card, ("身份证号码：{}，请核对。", "嫌疑人的身份证是{}", "ID card {} was scanned.", "证件{}，有效期二十年。", "{}")),
    ("bank_card", bank_card, ("请汇款至{}，开户行工商银行。", "卡号：{}", "My card number is {}, exp 09/27.", "charged {} twice", "账号 {}")),
    ("mobile", mobile, ("有事请打{}。", "联系电话：{}（张先生）", "手机{}，微信同号", "小王 {}", "Call me at {} tomorrow.", "李经理，{}")),
    ("landline", landline, ("电话：{}", "办公室座机{}，上班时间有人", "Tel: {}", "传真 {}。")),
    ("phone", phone, ("Call {} for details.", "My number is {}.", "Phone: {} (home)", "请拨打{}", "{} or by mail")),
    ("ssn", ssn, ("SSN: {}", "Her social security number is {}.", "{} (taxpayer)", "applicant {} was denied")),
    ("email", email, ("写信到{}。", "contact {} for help", "<{}>", "邮箱：{}", "mailto:{}")),
    ("iban", iban, ("IBAN: {}", "Please pay to {}.", "汇入账户{}。")),
    ("ip", ipv4, ("The request came from {} at noon.", "服务器地址 {}", "Failed login: {}", "ssh root@{}", "用户来自{}。")),
    ("ip", ipv6, ("address {} is up", "解析为 {}。", "[{}]")),
    ("mac", mac, ("MAC address {}", "网卡 {} 已连接", "ether {}  txqueuelen 1000")),
    ("plate", plate, ("车牌号{}的轿车", "肇事车辆{}逃逸。", "一辆{}停在路边")),
    ("credit_code", credit_code, ("统一社会信用代码：{}", "税号 {}", "company code {}")),
    ("passport", number_from("EG", 8), ("护照号码：{}", "Passport No. {}", "他的护照{}已过期")),
    ("qq", number_from("123456789", 8), ("加QQ：{}", "QQ{}", "qq群 {}", "我的QQ号是{}")),
    ("wechat", lambda rng: letters(rng, 4, string.ascii_lowercase) + digits(rng, 5), ("微信号：{}", "加微信{}详聊", "WeChat: {}", "VX：{}")),
    ("api_key", api_key, ("export KEY={}", "Authorization: Bearer {}", "密钥泄露：{}", 'client("{}")')),
    ("secret", secret, ('password = "{}"', "api_key: {}", "密码：{}", 'SECRET_KEY = "{}"', "token={}")),
    ("private_key", private_key, ("{}", "the file holds\n{}\nand more")),
)  # fmt: skip


def _wrong(make: Make) -> Make:
    """A valid number with one digit changed in its second half."""

    def change(rng: random.Random) -> str:
        value = make(rng)
        places = [i for i, c in enumerate(value) if c.isdigit() and i > len(value) // 2]
        i = rng.choice(places)
        return value[:i] + str((int(value[i]) + rng.randrange(1, 9)) % 10) + value[i + 1 :]

    return change


NEAR_MISSES: tuple[tuple[str, Make, tuple[str, ...]], ...] = (
    ("wrong_id_card", _wrong(id_card), ("编号{}", "流水号：{}", "{}")),
    ("wrong_bank_card", _wrong(lambda rng: luhn("6222" + digits(rng, 14))), ("序列 {}", "number {}")),
    ("wrong_iban", _wrong(iban), ("code {}",)),
    ("order", lambda rng: birthday(rng)[:8].replace("19", "20", 1) + digits(rng, 10), ("订单号：{}", "order {} shipped")),
    ("order_11", lambda rng: "1" + rng.choice("35789") + digits(rng, 9), ("订单号{}", "order #{}", "快递单号：{}", "serial number {}", "批号 {}")),
    ("tracking", lambda rng: "SF" + digits(rng, 13), ("运单{}已发出", "tracking {}")),
    ("timestamp", lambda rng: "1" + rng.choice("567") + digits(rng, 8), ("at {} the job ended", "时间戳 {}", "t={}")),
    ("timestamp_ms", lambda rng: "1" + rng.choice("567") + digits(rng, 11), ('"created": {},', "毫秒 {}")),
    ("isbn", lambda rng: f"978-7-{digits(rng, 3)}-{digits(rng, 5)}-{digits(rng, 1)}", ("ISBN {}", "书号{}，定价 45 元")),
    ("isbn_10", lambda rng: digits(rng, 9) + rng.choice("0123456789X"), ("ISBN {}", "ISBN: {}")),
    ("version", lambda rng: f"{rng.randrange(10)}.{rng.randrange(20)}.{rng.randrange(30)}.{rng.randrange(40)}", ("version {}", "v{} released", "升级到版本 {}")),
    ("section", lambda rng: f"{rng.randrange(1, 9)}.{rng.randrange(1, 9)}.{rng.randrange(1, 9)}.{rng.randrange(1, 40)}", ("See section {}.", "{} Overview", "第 {} 节")),
    ("browser", lambda rng: f"Chrome/{rng.randrange(80, 130)}.0.{rng.randrange(3000, 6000)}.{rng.randrange(100)}", ("{} Safari/537.36",)),
    ("decimal", lambda rng: f"{rng.randrange(10)}.{digits(rng, 15)}", ("pi is about {}", "x = {}", "误差 {}")),
    ("constant", lambda rng: rng.choice(["0x", ""]) + "13" + digits(rng, 9) + rng.choice(["UL", "ull", ""]), ("M = {};", "x * {}", "hash(a, {})", "return a ^ {};")),
    ("constant_20", lambda rng: "1" + digits(rng, 19), ("mod {}", "N = {}")),
    ("formula", lambda rng: f"{digits(rng, 3)} - {digits(rng, 3)} - {digits(rng, 4)}", ("compute {} by hand",)),
    ("date_range", lambda rng: f"{1900 + rng.randrange(100)}-{1900 + rng.randrange(100)}", ("（{}年）", "from {} on")),
    ("datetime", lambda rng: f"20{digits(rng, 2)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d} 12:{rng.randrange(10, 60)}:{rng.randrange(10, 60)}", ("[{}] ok", "发布于 {}")),
    ("numbers", lambda rng: " ".join(digits(rng, 2).lstrip("0") or "7" for _ in range(12)), ("numbers {}", "数据：{}")),
    ("money", lambda rng: f"{rng.randrange(1, 999)},{digits(rng, 3)},{digits(rng, 3)}.{digits(rng, 2)}", ("共计人民币{}元", "${}")),
    ("population", lambda rng: rng.choice("123456789") + digits(rng, 8), ("人口 {} 人", "population of {}")),
    ("hash", lambda rng: letters(rng, 40, "0123456789abcdef"), ("commit {}", "sha1: {}")),
    ("uuid", lambda rng: "-".join(letters(rng, n, "0123456789abcdef") for n in (8, 4, 4, 4, 12)), ("id {}", "uuid={}")),
    ("private_ip", lambda rng: f"192.168.{rng.randrange(255)}.{rng.randrange(255)}", ("ping {}", "网关 {}")),
    ("decorator", lambda rng: "@" + letters(rng, 8, string.ascii_lowercase) + ".setter", ("    {}\n    def x(self):", )),
    ("handle", lambda rng: "@" + letters(rng, 8, string.ascii_lowercase), ("follow {} on it", "感谢{}的评论")),
    ("image", lambda rng: letters(rng, 5, string.ascii_lowercase) + "@2x.png", ("see {}",)),
    ("repository", lambda rng: f"git@{rng.choice(['github.com', 'gitlab.com'])}:{letters(rng, 6, string.ascii_lowercase)}/x.git", ("git clone {}",)),
    ("placeholder", lambda rng: rng.choice(["your-api-key-here-1234", "<PASSWORD>", "${DB_PASSWORD}", "xxxxxxxxxxxxxxxx1", "os.environ['TOKEN_1']"]), ("password = {}", "api_key: {}")),
    ("variable", lambda rng: letters(rng, 9, string.ascii_lowercase) + "_" + letters(rng, 9, string.ascii_lowercase), ("token = {}", "secret: {}", "password={}()")),
    ("slice", lambda rng: f"a[{rng.randrange(9)}::{rng.randrange(2, 9)}]", ("use {} here",)),
    ("clock", lambda rng: f"{rng.randrange(10, 24)}:{rng.randrange(10, 60)}:{rng.randrange(10, 60)}", ("at {} sharp",)),
    ("province", lambda rng: rng.choice(["云A", "京B", "新C"]) + rng.choice(["股", "型车", "区"]), ("这是{}的情况",)),
    ("passport_word", lambda rng: digits(rng, 4), ("护照办理需要{}元",)),
    ("wechat_word", lambda rng: "", ("微信支付很方便{}", "WeChat is an app{}")),
)  # fmt: skip


def plant(seed: int, n: int) -> Iterator[Case]:
    """`n` cases, kinds and near misses in turn; each kind gets the same share."""
    rng = random.Random(seed)
    rows = [(kind, *row) for kind, *row in VALID] + [("", *row) for _, *row in NEAR_MISSES]
    names = [kind for kind, *_ in VALID] + [name for name, *_ in NEAR_MISSES]
    for i in range(n):
        kind, make, sentences = rows[i % len(rows)]
        value, sentence = make(rng), rng.choice(sentences)
        before, _, after = sentence.partition("{}")
        spans = ((kind, len(before), len(before) + len(value)),) if kind else ()
        yield Case(before + value + after, spans, names[i % len(rows)])


def score(cases: list[Case], find: Callable[[str], list[tuple[str, int, int]]]) -> dict[str, dict[str, float]]:
    """Recall and precision for each kind and for "all"; a find counts when kind, start and end are right."""
    table: dict[str, list[int]] = {}  # kind -> [planted, found right, found]
    for case in cases:
        found = [tuple(span) for span in find(case.text)]
        for kind, *_ in case.spans:
            table.setdefault(kind, [0, 0, 0])[0] += 1
        for span in found:
            row = table.setdefault(span[0], [0, 0, 0])
            row[2] += 1
            row[1] += span in case.spans
    table["all"] = [sum(row[k] for row in table.values()) for k in range(3)]
    return {
        kind: {
            "planted": planted,
            "recall": round(right / planted, 4) if planted else 0.0,
            "precision": round(right / found, 4) if found else 0.0,
        }
        for kind, (planted, right, found) in sorted(table.items())
    }
