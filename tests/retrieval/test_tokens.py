"""The words of a full-text index: one form, joined numbers, CJK in pairs."""

import unicodedata

from omma.retrieval.tokens import MOST_ASKED, asked, words


def test_words_are_lower_case_without_accents_and_numbers_are_joined():
    assert words("Two Cafés for 1,250,000!") == ["two", "cafes", "for", "1250000"]
    assert words("red_cup-2.JPG ﬁne １２") == ["red", "cup", "2", "jpg", "fine", "12"]
    assert words("1,2,3 12,34") == ["1", "2", "3", "12", "34"]
    assert words("") == words(" ,.-•→▪") == []


def test_an_emoji_is_a_word_whatever_its_tone_of_skin_gender_and_drawing():
    assert words("a🐱b 🐱🐱") == ["a", "emoji1f431", "b", "emoji1f431", "emoji1f431"]
    assert words("❤️") == words("❤") == words("❤\ufe0e") == ["emoji2764"]
    assert words("👍🏽") == words("👍🏿") == words("👍")
    assert words("🤷🏽‍♀️") == words("🤷‍♂️") == words("🤷")
    assert words("♀ ♂️") == ["emoji2640", "emoji2642"]
    assert words("👩‍🚀") == [*words("👩"), *words("🚀")]
    assert words("🇰🇷🇯🇵") == [*words("🇰🇷"), *words("🇯🇵")] == ["emoji1f1f01f1f7", "emoji1f1ef1f1f5"]
    assert words("1️⃣") == ["1"]
    assert words("①❶") == ["1❶"], "a number, as before"
    assert asked("where is 🐱 고양이") == ["emoji1f431", "고양", "양이"]


def test_korean_is_kept_as_characters_and_pairs_and_asked_for_in_pairs():
    assert words("고양이가") == ["고", "고양", "양", "양이", "이", "이가", "가"]
    assert asked("고양이") == ["고양", "양이"]
    assert asked("컵") == ["컵"]
    assert set(asked("고양이")) <= set(words("고양이의 집"))
    assert words(unicodedata.normalize("NFD", "고양이")) == words("고양이")


def test_chinese_and_japanese_are_cut_from_the_words_beside_them():
    assert words("iPhone手机") == ["iphone", "手", "手机", "机"]
    assert asked("が") == ["が"]
    assert asked("漢字B") == ["漢字", "b"]


def test_a_question_loses_the_words_that_say_nothing_unless_there_are_no_others():
    assert asked("show me the pictures of a red cup") == ["red", "cup"]
    assert asked("what is the") == ["what", "is", "the"]
    assert asked("cup cup CUP") == ["cup"]


def test_a_long_question_is_cut():
    assert len(asked(" ".join(f"w{i}" for i in range(5000)))) == MOST_ASKED
    assert len(asked("가나다라마바사" * 2000)) <= MOST_ASKED
