"""A question in arXiv's words and in friendlier ones: what is sent, and what is refused before anything is."""

import calendar

import pytest

from omma.data.papers.query import Asked, asked


@pytest.mark.parametrize(("text", "search"), [
    ("electron", "all:electron"),
    ("ti:sparse", "ti:sparse"),
    ('  "visual   token" pruning ', 'all:"visual token" AND all:pruning'),
    ("au:del_maestro AND ti:checkerboard", "au:del_maestro AND ti:checkerboard"),
    ("au:del_maestro ANDNOT (ti:checkerboard OR ti:spin)", "au:del_maestro ANDNOT (ti:checkerboard OR ti:spin)"),
    ("(cat:cs.CV OR cat:cs.CL) ti:clip", "(cat:cs.CV OR cat:cs.CL) AND ti:clip"),
    ("((a))", "((all:a))"),
    ('abs:"( not a group )" OR co:"12 pages"', 'abs:"( not a group )" OR co:"12 pages"'),
    ("ti:고양이", "ti:고양이"),
    ("submittedDate:[202301010600   TO 202401010600]", "submittedDate:[202301010600 TO 202401010600]"),
    ("date:2024-02", "submittedDate:[202402010000 TO 202402292359]"),
    ("updated:2024-06-15", "lastUpdatedDate:[202406150000 TO 202406152359]"),
    ("cat:cs.CV date:2023-11..2024", "cat:cs.CV AND submittedDate:[202311010000 TO 202412312359]"),
    ("date:2024..", "submittedDate:[202401010000 TO 209912312359]"),
    ("date:..2007-03", "submittedDate:[199101010000 TO 200703312359]"),
])  # fmt: skip
def test_a_question_is_sent_in_the_words_of_arxiv(text, search):
    assert asked(text) == Asked(search=search)
    assert asked(search) == Asked(search=search), "what is sent is a question itself, with nothing left to add"


def test_a_month_ends_on_its_last_day():
    for month in range(1, 13):
        days = calendar.monthrange(2023, month)[1]
        assert str(asked(f"date:2023-{month:02}")).endswith(f"TO 2023{month:02}{days}2359]")


@pytest.mark.parametrize(("text", "ids"), [
    ("2401.06209", ("2401.06209",)),
    ("2401.06209v2, hep-ex/0307015,math.GT/0309136v1", ("2401.06209v2", "hep-ex/0307015", "math.GT/0309136v1")),
    ("2401.06209,2401.06209", ("2401.06209",)),
])  # fmt: skip
def test_ids_are_asked_for_as_ids(text, ids):
    assert asked(text) == Asked(ids=ids)


@pytest.mark.parametrize(("text", "told"), [
    ("", "the question is empty"), ("   ", "is empty"), ("()", r"before the 2\. part"), ("(ti:a AND )", "before the 4"),
    ("AND a", "one is missing before it"), ("a AND OR b", "one is missing"), ("a ANDNOT", "ends with ANDNOT"),
    ("(a", "opens 1 parentheses"), ("a) b", "closes a parenthesis"), ('ti:"red cup', "close the quote"),
    ("submittedDate:[2023", "close the quote or bracket"), ("submittedDate:[2023 TO 2024]", "is no range; write sub"),
    ("a and b", "'and' between terms is written AND"), ("a not b", "written ANDNOT"), ("t:red", "no field 't'.*ti "),
    ("ti:(red cup)", "put the field before each word"), ("ti:", "a colon too many"), ("ti:a:b", "a colon too many"),
    ('ti:""', "nothing between the quotes"), ("[a TO b]", "only dates have a range"), ("id:2401.0620", "by themselves"),
    ("date:2024-13", "no date in '2024-13'"), ("date:June", "write 2024, 2024-06 or 2024-06"), ("date:..", "no end"),
    ("date:2023-02-29", "that month has 28"), ("date:2024..2023", "ends before it begins"), ("date:0001", "no date"),
    ("word " * 900, "about 4000"), (",".join(f"2401.{i:05}" for i in range(101)), "101 ids; give at most 100"),
])  # fmt: skip
def test_a_question_that_can_not_be_asked_is_refused_with_what_to_write(text, told):
    with pytest.raises(ValueError, match=told):
        asked(text)


def test_a_question_of_ten_thousand_characters_is_read_in_no_time():
    for text in ("(" * 10_000, "a " * 5000, '"' * 9999, "ti:" * 3333, "((a OR " * 1400, "date:" + "1" * 9995,
                 "🙂" * 10_000):  # fmt: skip
        with pytest.raises(ValueError):
            asked(text)
