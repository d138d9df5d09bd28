"""What a model said -> plain text that can do nothing: no markup, addresses, paths or control characters, and of the
marks [1], [2] only those of sources that exist.

    clean("**Red** <b> [1] [7], see http://a.example/?q=1", sources=2) == "Red ‹b› [1] , see (link left out)"

A model may say whatever stood in a page or a picture that it was shown (Greshake et al. 2023, arXiv 2302.12173), so
this doesn't ask whether something is meant badly: what could be fetched, opened, drawn or run is not let through.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterator

LEFT_OUT = "(link left out)"
LONGEST_MARK = 60      # characters, of what MARK finds
MARK = re.compile(r"\[ ?(\d{1,3}(?: ?[,;] ?\d{1,3}){0,7}) ?\]")
TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~])?")   # colours, moves of the cursor (ECMA-48)
# the beginning of a name, up to the dot before its last part; "1." counts something, "163." may begin a name
LABEL = r"(?<![\w-])(?<![^\W\d]\.)(?=[\d-]*[^\W\d]|\d{3})[\w-]+(?:\.[\w-]+)*\."
ADDRESS = re.compile(
    r"//|\bwww\.|\b(?:https?|ftp|file|data|javascript|vbscript|mailto|tel|blob|about|ws):"
    r"|[\w.+%-]@(?:[a-z][a-z\d_.-]|[^\W\d_a-z]\w|[\w.-]*\.[a-z])"  # but not recall@k or mAP@0.5
    rf"|{LABEL}[a-z]{{2,}}(?!\w)(?!\.\w)|\bxn--|\d{{1,3}}(?:\.\d{{1,3}}){{3}}",
    re.IGNORECASE,
)
# the top levels in other letters (IANA's root zone, August 2026). Only they make a name: where letters know no case
# and words no spaces, any two sentences around a full stop would be one
TOPS = """ישראל קום امارات البحرين الجزائر مصر موريتانيا ڀارت بارت بھارت ایران ايران عراق الاردن المغرب مليسيا
    عمان پاکستان پاكستان فلسطين قطر السعودية السعودیة السعودیۃ السعوديه سودان سورية سوريا تونس اليمن موقع كوم
    ارامكو العليان بازار ابوظبي كاثوليك همراه شبكة بيتك عرب հայ გე ελ ευ бг бел ею қаз мкд мон срб рф укр москва
    католик онлайн сайт орг дети ком рус বাংলা ভাৰত ভারত ಭಾರತ ଭାରତ भारतम् भारोत भारत कॉम नेट संगठन ഭാരതം భారత్
    ભારત ਭਾਰਤ இந்தியா இலங்கை சிங்கப்பூர் ලංකා ລາວ ไทย คอม 中国 中國 香港 澳門 澳门 新加坡 台灣 台湾 臺灣 佛山 慈善
    集团 在线 点看 八卦 公益 公司 香格里拉 网站 移动 我爱你 联通 时尚 微博 淡马锡 商标 商店 商城 新闻 家電 中文网
    中信 娱乐 谷歌 電訊盈科 购物 通販 网店 餐厅 网络 亚马逊 食品 飞利浦 手机 政府 机构 组织机构 健康 招聘 大拿
    世界 書籍 网址 天主教 游戏 企业 信息 嘉里大酒店 嘉里 广东 政务 セール ファッション ストア アマゾン ポイント
    クラウド グーグル コム みんな vermögensberater vermögensberatung 한국 삼성 닷컴 닷넷"""
PLACE = re.compile(
    r"(?:^|[\s\"'(=:,;‹])(?:~?[/\\]|\.{1,2}[/\\]|[a-z]:[/\\])|(?<![^\s/\\])[^\s/\\]+(?:[/\\][^\s/\\]+){2,}|\\\\",
    re.IGNORECASE,
)
DOTS = str.maketrans("。．｡", "...")                      # what browsers take for the dots of an address
HEX = re.compile(r"(?<![a-z\d_:.])[\da-f]{0,4}(?::[\da-f]{0,4}){2,8}(?![a-z\d_])", re.IGNORECASE)
DRAWN = str.maketrans({"<": "‹", ">": "›", "`": "'", "*": "∗", "\\": "/", "[": "", "]": "", "{": "(", "}": ")"})
EDGES = "\"'()[]{}<>.,;:!?«»“”‘’*`_"
KINDS = {
    "email": re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "number": re.compile(r"(?<![\w.])(?:\d[ -]?){12,18}\d(?![\w.])"),
    "id": re.compile(r"\b\d{6}-[1-8]\d{6}\b|\b\d{3}-\d{2}-\d{4}\b"),
    "account": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "phone": re.compile(r"(?<![\w.,])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"
                        r"|(?:\(0?\d{2,4}\) ?|0\d{1,4}[ .-])\d{3,4}(?:[ .-]?\d{2,4}){1,2}|\d{3}[.-]\d{3}[.-]\d{4}"
                        r"|0\d{9,10})(?![\w])"),
}  # fmt: skip


def clean(text: str, sources: int = 0, mask: bool = False) -> str:
    """The whole of a text, as `Plain` lets it through. sources: how many there are; mask: leave out personal data."""
    plain = Plain(sources, mask)
    return "".join([*plain.add(text), *plain.end()]).strip()


class Plain:
    """A stream of a model's words, made plain while it comes; `cited` are the marks that it let through, in order.

    sources: marks from [1] to this number are known. mask: personal data is named, not shown (`masked`). What comes out
    is the same however the text is cut into pieces: it goes through line by line where data is masked, else word by
    word.
    """

    def __init__(self, sources: int, mask: bool = False):
        self.sources, self.mask = sources, mask
        self.cited: list[int] = []
        self._held = ""

    def add(self, piece: str) -> Iterator[str]:
        """What can be said once this piece is there."""
        self._held += piece.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
        ends = "\n" if self.mask else " \n"
        last = lambda stop: max(self._held.rfind(end, 0, stop) for end in ends) + 1
        until = last(len(self._held))
        opened = self._held.rfind("[", 0, until)              # a mark may hold spaces: "[1, 2]"
        if opened >= 0 and "]" not in self._held[opened:until] and len(self._held) - opened < LONGEST_MARK:
            until = last(opened)
        ready, self._held = self._held[:until], self._held[until:]
        if said := self._plain(ready):
            yield said

    def end(self) -> Iterator[str]:
        """What is left when no more pieces come."""
        ready, self._held = self._held, ""
        if said := self._plain(ready):
            yield said

    def _plain(self, text: str) -> str:
        kinds = ((c, unicodedata.category(c)[0]) for c in TERMINAL.sub("", text))
        text = "".join(" " if kind == "Z" else c for c, kind in kinds if kind != "C" or c == "\n")
        if self.mask:
            text = masked(text)
        parts, at = [], 0
        for mark in MARK.finditer(text):
            numbers = [int(number) for number in re.findall(r"\d+", mark[1])]
            known = [number for number in numbers if 1 <= number <= self.sources]
            self.cited += [number for number in known if number not in self.cited]
            parts += [inert(text[at : mark.start()]), "".join(f"[{number}]" for number in known)]
            at = mark.end()
        said = "".join([*parts, inert(text[at:])])
        return re.sub(r"(?<=\d\])(?=[(:])", " ", said)        # in Markdown these would make a mark a link


def inert(text: str) -> str:
    """Words and line breaks; every word that names a place is left out, and what is left of markup is letters."""
    return re.sub(r"[^ \n]+", lambda word: harmless(word[0]), text)


def harmless(word: str) -> str:
    seen = letters(word)
    dotted = seen.translate(DOTS)
    if ADDRESS.search(dotted) or PLACE.search(dotted) or NAME.search(seen) or any(map(is_ipv6, HEX.findall(seen))):
        before = word[: len(word) - len(word.lstrip(EDGES))].translate(DRAWN)
        return f"{before.rstrip(':')}{LEFT_OUT}"
    word = re.sub(r"\*\*|__|~~|``+|^#+$", "", word)
    word = re.sub(r"&(?=#?\w+;)", "& ", word)              # a name of a character in HTML
    return re.sub(r"(?<=[^\W\d]):(?=\w)", ": ", word).translate(DRAWN)  # no word before a colon is a scheme


def letters(word: str) -> str:
    """It in the form in which names are compared, without the marks that go with letters."""
    word = unicodedata.normalize("NFKC", word)
    return word if word.isascii() else "".join(c for c in word if unicodedata.category(c)[0] != "M")


# In these the dot is a real one: 。 before such a word ends a sentence. A particle may follow, as in Korean: of English
# names any, of Korean ones where what comes before is no end of a sentence.
NAME = re.compile(
    rf"{LABEL}(?:[a-z]{{2,}}(?![a-z\d_-])(?!\.[a-z\d])|(?:{'|'.join(letters(top) for top in TOPS.split())})(?![\w-]))"
    r"|(?<![\w-])(?=[\d-]*[^\W\d])[\w-]{2,}(?<![다요까죠])\.(?:한국|삼성|닷컴|닷넷)",
    re.IGNORECASE,
)


def is_ipv6(text: str) -> bool:
    """Of what HEX finds, which may also be a time or a ratio."""
    text = text if text.endswith("::") else text.rstrip(":")
    try:
        return text != "::" and bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


def masked(text: str) -> str:
    """Personal data by its kind: mail addresses, phone numbers, numbers of cards (those that pass Luhn's test) and
    accounts (IBAN), and of persons (Korea, USA). By their form alone: names and street addresses stay."""
    for kind, form in KINDS.items():
        test: Callable[[str], bool] = {"number": luhn, "account": mod97}.get(kind, lambda _: True)
        shown = "card" if kind == "number" else kind
        text = form.sub(lambda found, shown=shown, test=test: f"({shown})" if test(found[0]) else found[0], text)
    return text


def luhn(number: str) -> bool:
    """Whether its last digit checks the others, as on cards (ISO/IEC 7812)."""
    digits = [int(c) for c in reversed(number) if c.isdecimal()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def mod97(account: str) -> bool:
    """Whether its two digits check the rest (ISO 13616)."""
    plain = account.replace(" ", "")
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1
