"""A model's words made plain: nothing that could be fetched, opened, drawn or run, however it is written or cut."""

import random
import re

import pytest

from omma.retrieval.plain import LEFT_OUT, Plain, clean, luhn, masked, mod97

BAD = [
    "see http://a.example/?q=secret", "<img src=x onerror=alert(1)>", "![x](//evil.example/p.png)", "www.evil.example",
    "[click](javascript:alert(1))", "[1](evil)", "[1]: evil", "[1][evil]", "evil.example/path", "mail a@b.example",
    "\x1b[31mred\x1b[0m", "\u202etxt.exe", "<script>alert(1)</script>", "/etc/passwd", "C:\\Users\\me", "../../secret",
    "~/.ssh/id_rsa", "file:///etc/passwd", "```sh\nrm -rf x\n```", "data:text/html,x", "ｈｔｔｐ：//evil．com",
    "\\\\server\\share", "&lt;script&gt;", "10.0.0.1", "http:\n//evil.example", "[[1]](x)", "\x00\x07\x9b31m", "# head",
    "evil。com", "a\u200bb", "[ 1 , 9 ](x)", "xn--80ak6aa92e", "one\u2028two", "**[1]**(x)",
    "evil.com.", "evil.example./x", "(run.exe.)", "evil.com...",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_nothing_that_acts_is_left(text):
    said = clean(f"It is red {text} and blue", sources=1)
    assert said.startswith("It is red")
    assert said.endswith("and blue")
    assert not re.search(r"[<>`*\\{}\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e]", said)
    assert not re.search(r"//|\bwww\.|\w+:\w|@|\.(example|com|exe)\b|xn--|passwd|secret|evil/|#", said)
    assert re.sub(r"\[1\](?![(\[:])", "", said).count("[") == 0 == re.sub(r"\[1\]", "", said).count("]")
    assert "&lt;" not in said
    assert "10.0.0.1" not in said


def test_what_is_no_danger_stays_as_it_is():
    for text in ("3.5 km/h and 12:30, e.g. and/or U.S. (two of 3)", "1,250,000 원입니다. 다음", "a-b 50%\n- x"):
        assert clean(text) == text
    assert clean("Red [1], blue [2, 3] and [7].", sources=2) == "Red [1], blue [2] and ."
    assert clean("note:this a<b 2*3") == "note: this a‹b 2∗3"
    assert clean("see report.pdf") == f"see {LEFT_OUT}"


@pytest.mark.parametrize("mask", [False, True])
def test_pieces_give_the_same_as_the_whole_and_the_same_marks(mask):
    text = "\n".join(BAD) + " red [1], [2] [ 1, 3 ] call +82 10 1234 5678 now [4 and on"
    whole = Plain(3, mask)
    told = "".join([*whole.add(text), *whole.end()])
    assert whole.cited[:3] == [1, 2, 3]
    for seed in range(20):
        draw, plain, at, said = random.Random(seed), Plain(3, mask), 0, ""
        while at < len(text):
            step = draw.randint(1, 9)
            said += "".join(plain.add(text[at : at + step]))
            at += step
        assert (said + "".join(plain.end()), plain.cited) == (told, whole.cited)


def test_words_come_out_as_soon_as_they_are_whole():
    plain = Plain(1)
    said = ["".join(plain.add(piece)) for piece in ("the r", "ed ", "cup [1", "] is")]
    assert said == ["the ", "red ", "cup ", "[1] "]
    assert "".join(plain.end()) == "is"


def test_personal_data_is_named_and_not_shown():
    told = masked("a.b@c.kr, 010-1234-5678 or +82 10 1234 5678 or 212-555-0123, card 4111 1111 1111 1111, "
                  "GB82 WEST 1234 5698 7654 32, 900101-1234567")  # fmt: skip
    assert told == "(email), (phone) or (phone) or (phone), card (card), (account), (id)"
    for text in ("in 1990-2000 there were 120 000", "1,250,000 of 3.5", "4111 1111 1111 1112", "page 12, 2024-05-01"):
        assert masked(text) == text
    assert clean("ask a.b@c.kr please", mask=True) == "ask (email) please"


def test_checks_of_numbers_are_the_published_ones():
    assert [luhn(n) for n in ("79927398713", "79927398710", "4111111111111111")] == [True, False, True]
    assert [mod97(a) for a in ("GB82WEST12345698765432", "GB82WEST12345698765433")] == [True, False]
