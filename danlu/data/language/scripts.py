"""Scripts: how many letters of a text belong to which writing system.

    code points  --table-->  one byte a character  --bincount-->  counts          about 5 ns a character, no loop

The table has one class a code point up to U+32000. Han has three: characters of the simplified script alone (汉), of the
traditional alone (漢), and of both (字). The first two are lists of the commonest characters that differ, without those
that are good in either script (后, 里, 云, 台, 只 ...): a page of a few sentences has several of them.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NONE, HAN, HANS, HANT, KANA, HANGUL, ASCII, LATIN, CYRILLIC, GREEK, ARABIC, HEBREW, INDIC, THAI, ARMENIAN, GEORGIAN, ETHIOPIC, KHMER, TIBETAN, OTHER = range(20)  # noqa: E501
N_SCRIPTS = 20

# Scripts that (nearly) only one language of the web is written in.
ONE_LANGUAGE = {
    GREEK: "el", HEBREW: "he", THAI: "th", ARMENIAN: "hy", GEORGIAN: "ka", ETHIOPIC: "am", KHMER: "km", TIBETAN: "bo",
}  # fmt: skip

_RANGES: tuple[tuple[int, int, int], ...] = (
    (0x0041, 0x005A, ASCII), (0x0061, 0x007A, ASCII), (0x00AA, 0x00AA, LATIN), (0x00B5, 0x00B5, OTHER), (0x00BA, 0x00BA, LATIN),
    (0x00C0, 0x00D6, LATIN), (0x00D8, 0x00F6, LATIN), (0x00F8, 0x02AF, LATIN), (0x0370, 0x0373, GREEK), (0x0376, 0x0377, GREEK),
    (0x037B, 0x037D, GREEK), (0x0386, 0x0386, GREEK), (0x0388, 0x03FF, GREEK), (0x0400, 0x0481, CYRILLIC), (0x048A, 0x052F, CYRILLIC),
    (0x0531, 0x0587, ARMENIAN), (0x05D0, 0x05F2, HEBREW), (0x0620, 0x064A, ARABIC), (0x066E, 0x06D3, ARABIC), (0x06FA, 0x06FC, ARABIC),
    (0x0700, 0x08FF, OTHER), (0x0900, 0x0DFF, INDIC), (0x0E01, 0x0E30, THAI), (0x0E32, 0x0E33, THAI), (0x0E40, 0x0E46, THAI),
    (0x0E80, 0x0EFF, OTHER), (0x0F40, 0x0F6C, TIBETAN), (0x1000, 0x109F, OTHER), (0x10A0, 0x10FF, GEORGIAN), (0x1100, 0x11FF, HANGUL),
    (0x1200, 0x137C, ETHIOPIC), (0x13A0, 0x177F, OTHER), (0x1780, 0x17B3, KHMER), (0x1800, 0x1CFF, OTHER), (0x1D00, 0x1EFF, LATIN),
    (0x1F00, 0x1FFF, GREEK), (0x2C00, 0x2DDF, OTHER), (0x3041, 0x3096, KANA), (0x309D, 0x309F, KANA), (0x30A1, 0x30FA, KANA),
    (0x30FC, 0x30FF, KANA), (0x3105, 0x312F, HAN), (0x3131, 0x318E, HANGUL), (0x31F0, 0x31FF, KANA), (0x3400, 0x4DBF, HAN),
    (0x4E00, 0x9FFF, HAN), (0xA000, 0xA4CF, OTHER), (0xA500, 0xABFF, OTHER), (0xAC00, 0xD7A3, HANGUL), (0xF900, 0xFAFF, HAN),
    (0xFB1D, 0xFB4F, HEBREW), (0xFB50, 0xFDFF, ARABIC), (0xFE70, 0xFEFC, ARABIC), (0xFF21, 0xFF3A, LATIN), (0xFF41, 0xFF5A, LATIN),
    (0xFF66, 0xFF9D, KANA), (0x20000, 0x31FFF, HAN),
)  # fmt: skip

# Pairs simplified, traditional; both must be wrong in the other script.
_PAIRS = (
    "国國学學会會来來时時说說对對这這个個们們为為过過还還没沒开開关關见見现現发發经經问問间間长長东東车車马馬门門书書写寫"
    "电電话話语語认認识識让讓请請谁誰读讀难難变變观觀点點头頭实實应應该該无無产產业業专專务務动動劳勞势勢区區医醫华華单單"
    "卖賣买買压壓厂廠历歷厅廳参參双雙叶葉号號听聽员員响響团團园園围圍图圖圆圓坏壞块塊场場声聲处處备備复復够夠奋奮妇婦妈媽"
    "孙孫宁寧宝寶审審宽寬宾賓导導将將尔爾尽盡层層岁歲岛島币幣师師带帶帮幫广廣庆慶库庫异異张張弹彈强強归歸录錄彻徹径徑"
    "总總恋戀恶惡惊驚惯慣愿願戏戲战戰户戶执執扩擴扫掃扬揚担擔据據择擇挥揮损損换換敌敵数數断斷显顯晓曉杀殺权權条條杨楊极極"
    "构構枪槍标標样樣桥橋检檢欢歡残殘毕畢气氣汉漢汤湯济濟测測浓濃润潤涨漲温溫湾灣满滿灭滅灯燈灵靈炼煉热熱爱愛状狀独獨猎獵"
    "环環疗療盘盤矿礦码碼确確种種积積称稱竞競笔筆节節范範约約级級纪紀纯純纸紙线線练練组組细細终終结結给給绝絕统統继繼续續"
    "维維绿綠编編缘緣网網罗羅职職联聯肃肅胜勝脑腦脚腳脱脫节節艺藝药藥营營虽雖蓝藍补補装裝规規视視览覽觉覺计計订訂训訓议議"
    "记記讲講许許论論设設访訪证證评評试試诗詩诚誠详詳误誤调調谈談谢謝课課财財责責败敗货貨质質贵貴费費资資赏賞赛賽赶趕跃躍"
    "转轉轮輪软軟轻輕载載较較输輸边邊达達迁遷运運进進远遠连連迟遲适適选選递遞逻邏邮郵释釋针針钟鐘钱錢铁鐵银銀错錯键鍵镇鎮"
    "闻聞闭閉阳陽阴陰阶階际際陆陸陈陳险險随隨隐隱页頁项項顺順须須顾顧预預领領频頻题題额額风風飞飛饭飯馆館驶駛验驗鱼魚鸟鳥"
    "鸡雞麦麥黄黃齐齊龙龍龟龜亚亞仅僅从從仓倉优優伟偉传傳伤傷伦倫侧側侨僑债債倾傾储儲兰蘭兴興养養冯馮决決况況冻凍净淨减減"
    "凤鳳击擊创創删刪别別剧劇办辦励勵协協卢盧卫衛县縣叹嘆吗嗎呜嗚启啟园園坚堅垒壘奥奧奖獎娱娛孔孔寻尋尝嘗属屬岗崗巩鞏帅帥"
)

_SAMPLE = 2_000  # characters from each of three places; enough for a share, constant time for a long book


class Scripts(NamedTuple):
    """Letters by script, and the characters that were looked at."""

    counts: NDArray[np.int64]  # [N_SCRIPTS]
    n_characters: int

    @property
    def n_letters(self) -> int:
        return int(self.counts[1:].sum())

    @property
    def n_han(self) -> int:
        return int(self.counts[HAN : HANT + 1].sum())

    def han_script(self) -> str:
        """ "hans", "hant", or "" where too few characters tell."""
        simplified, traditional = int(self.counts[HANS]), int(self.counts[HANT])
        if simplified + traditional == 0:
            return ""
        return "hans" if simplified >= traditional else "hant"


@functools.cache
def _table() -> NDArray[np.uint8]:
    table = np.zeros(0x110000, dtype=np.uint8)
    for first, last, script in _RANGES:
        table[first : last + 1] = script
    for i in range(0, len(_PAIRS), 2):
        if _PAIRS[i] != _PAIRS[i + 1]:
            table[ord(_PAIRS[i])] = HANS
            table[ord(_PAIRS[i + 1])] = HANT
    return table


def take_sample(text: str) -> str:
    """The text, or its beginning, middle and end."""
    if len(text) <= 3 * _SAMPLE:
        return text
    middle = len(text) // 2
    return text[:_SAMPLE] + "\n" + text[middle : middle + _SAMPLE] + "\n" + text[-_SAMPLE:]


def count_scripts(text: str) -> Scripts:
    """Letters of `text` by script. The whole text is looked at: take a sample of a long one first."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return Scripts(np.bincount(_table()[codes], minlength=N_SCRIPTS), len(text))
