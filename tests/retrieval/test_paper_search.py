"""Papers are found by their words as BM25 has it, by vectors where there are some, and of each the newest version."""

import math
import sqlite3
from collections import Counter

import numpy as np
import pytest

import omma
from arxiv_server import Arxiv, paper
from omma import cli
from omma.retrieval.papers import WEIGHTS, as_text, search_papers
from omma.retrieval.tokens import asked, words
from omma.table import PAPERS, Table


def row(number, **changes):
    plain = dict.fromkeys(PAPERS.names) | {
        "id": f"2413.{number:05}v1", "paper": f"2413.{number:05}", "version": 1, "title": "t", "authors": ["Ada Lo"],
        "abstract": "x", "published": f"20{number:02}-03-01T00:00:00Z"}  # fmt: skip
    return {**plain, **changes}


@pytest.fixture
def table(tmp_path):
    made = Table.create(tmp_path / "papers", kind="papers", chunk_rows=3)
    made.append([
        row(1, title="Red cups", abstract="We stack cups. Nothing else is done."),
        row(2, title="On towers", abstract="Red and blue bricks make towers that stand. Cups do not."),
        row(3, title="Blue birds", abstract="A bird is blue when light is scattered.", authors=["Mia Red", "Bo Cup"]),
        row(4, title="고양이는 무엇을 보는가", abstract="우리는 고양이의 눈을 본다."),
        row(5, title="Nothing at all", abstract=None, authors=[]),
    ])  # fmt: skip
    return made


def by_hand(table, query: str) -> dict[str, float]:
    """BM25 (Robertson et al. 1994) with k1 = 1.2 and b = 0.75, a word counted as often as its column weighs."""
    rows = table.read().to_pylist()
    said = [{name: words(as_text(one[name])) for name in WEIGHTS} for one in rows]
    lengths = [sum(map(len, one.values())) for one in said]
    mean, scores = sum(lengths) / len(lengths), {}
    for one, text, length in zip(rows, said, lengths, strict=True):
        for word in asked(query):
            having = sum(any(word in part for part in other.values()) for other in said)
            idf = max(math.log((len(rows) - having + 0.5) / (having + 0.5)), 1e-6)
            tf = sum(WEIGHTS[name] * Counter(text[name])[word] for name in WEIGHTS)
            if tf:
                score = idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length / mean))
                scores[one["id"]] = scores.get(one["id"], 0.0) + score
    return scores


@pytest.mark.parametrize("query", ["red cups", "blue", "towers that stand", "bird light scattered", "고양이", "Mia"])
def test_scores_are_those_of_bm25_by_hand(table, query):
    found = {hit.id: hit.score for hit in omma.search(table, query)}
    expected = by_hand(table, query)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[name] for name in expected], list(expected.values()), rtol=1e-5)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_the_title_counts_twice_and_authors_are_found(table):
    assert [hit.id for hit in omma.search(table, "red cups", k=2)] == ["2413.00001v1", "2413.00002v1"]
    (hit,) = omma.search(table, "bo cup", k=1)
    assert hit.row["title"] == "Blue birds"
    assert hit.row["authors"] == ["Mia Red", "Bo Cup"]
    assert hit.scores["words"] == pytest.approx(hit.score)


def test_only_the_newest_version_of_a_paper_is_found(table):
    omma.search(table, "red")
    table.append([row(1, id="2413.00001v2", version=2, title="Green cups", abstract="Green."),
                  row(2, id="2413.00002v1#2", title="On red towers")])  # fmt: skip
    assert [hit.id for hit in omma.search(table, "green")] == ["2413.00001v2"]
    assert [hit.id for hit in omma.search(table, "red")] == ["2413.00002v1#2", "2413.00003v1"]


def test_rows_are_chosen_by_where_and_a_view(table):
    assert [hit.id for hit in omma.search(table, "red", where="published >= '2003'")] == ["2413.00003v1"]
    view = table.select("published < '2003'")
    assert {hit.id for hit in omma.search(view, "red")} == {"2413.00001v1", "2413.00002v1"}
    assert omma.search(view, "red", where="version == 2") == []


@pytest.mark.parametrize("query", ["cup " * 2500, "🙂🙂", 'cups" OR (', "red AND NOT *", "'; DROP TABLE words; --"])
def test_odd_questions_are_answered(table, query):
    assert all(hit.id in {f"2413.0000{i}v1" for i in range(1, 6)} for hit in omma.search(table, query))
    assert len(omma.search(table, "red")) == 3


def test_what_can_not_be_asked_is_refused(table, colour_pictures, colour_encoder):
    for told, query, more in [
        ("the query is empty", "  ", {}), ("this query is a picture", colour_pictures["red"], {}),
        ("papers have none; leave rerank out", "red", {"rerank": 20}), ("k=0", "red", {"k": 0}),
        ("no column 'widht'", "red", {"where": "widht > 3"}),
        ("Create it: omma embed", "red", {"encoder": colour_encoder}),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=told):
            omma.search(table, query, **more)


# ---- vectors
def test_words_and_vectors_are_fused_by_their_places(table, colour_encoder):
    report = omma.embed(table, colour_encoder)
    assert report.column == "embed.colours.text"
    vectors = table.read(["embed.colours.text"])["embed.colours.text"].to_pylist()
    np.testing.assert_allclose(vectors[1], mean_of(colour_encoder, [
        "On towers", "Red and blue bricks make towers that stand.", "Cups do not."]), atol=1e-3)  # fmt: skip
    found = omma.search(table, "red cups", encoder=colour_encoder, k=5)
    order = {name: [hit.id for hit in sorted((hit for hit in found if name in hit.scores),
                                             key=lambda hit: -hit.scores[name])] for name in ("words", "meaning")}
    for hit in found:
        fused = sum(1 / (61 + order[name].index(hit.id)) for name in hit.scores)
        assert hit.score == pytest.approx(fused)
    assert len(found) == 5
    assert set(found[0].scores) == {"words", "meaning"}
    wanted = colour_encoder.encode_text(["red cups"])[0]
    assert found[0].scores["meaning"] == pytest.approx(float(np.dot(vectors[0], wanted)), abs=1e-3)


def mean_of(encoder, texts):
    mean = encoder.encode_text(texts).mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_older_versions_do_not_stand_before_others_among_the_nearest(table, colour_encoder):
    table.append([row(9, id=f"2413.00009v{v}", version=v, title="red", abstract="red") for v in range(1, 230)])
    omma.embed(table, colour_encoder)
    found = search_papers(table, "red", encoder=colour_encoder, k=5)
    assert len({hit.row["paper"] for hit in found}) == 5
    assert found[0].id == "2413.00009v229"


def test_papers_have_no_pictures_to_embed(table, colour_encoder):
    with pytest.raises(ValueError, match="papers, which have no pictures"):
        omma.embed(table, colour_encoder, what="image")


# ---- the full text beside the rows
def test_only_new_chunks_are_read_again(table, monkeypatch):
    omma.search(table, "red")
    read = []
    real = Table.chunk_batch
    monkeypatch.setattr(Table, "chunk_batch", lambda self, chunk, *more: read.append(chunk.name) or real(
        self, chunk, *more))
    omma.search(table, "red")
    assert read == []
    table.append([row(8, title="red again")])
    assert "2413.00008v1" in {hit.id for hit in omma.search(table, "red")}
    assert read == ["000002"]


@pytest.mark.parametrize("harm", ["damaged", "another table's", "removed"])
def test_a_full_text_that_is_damaged_or_of_another_table_is_made_again(table, tmp_path, harm):
    expected = [(hit.id, hit.score) for hit in omma.search(table, "red cups")]
    place = table.uri / ".omma-words" / "words.db"
    if harm == "damaged":
        place.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    elif harm == "removed":
        place.unlink()
    else:
        other = Table.create(tmp_path / "other", kind="papers")
        other.append([row(1, title="red cups red cups red cups"), row(2)])
        omma.search(other, "red")
        place.write_bytes((other.uri / ".omma-words" / "words.db").read_bytes())
    assert [(hit.id, hit.score) for hit in omma.search(table, "red cups")] == expected


def test_an_older_snapshot_of_a_table_finds_what_it_has_and_spoils_nothing(table):
    old = Table.open(table.uri)
    table.append([row(8, title="red again")])
    assert len(omma.search(table, "red")) == 4
    assert len(omma.search(old, "red")) == 3
    assert len(omma.search(table, "red")) == 4


def test_a_table_that_can_not_be_written_is_searched_in_memory(table):
    (table.uri / ".omma-words").write_text("a file where the folder would be")
    assert len(omma.search(table, "red")) == 3


def test_while_another_process_writes_the_full_text_a_search_goes_on(table, monkeypatch):
    omma.search(table, "red")
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda place, **options: real(place, **{**options, "timeout": 0}))
    with real(table.uri / ".omma-words" / "words.db") as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(omma.search(table, "red")) == 3


# ---- on the command line
def test_from_arxiv_to_a_search_and_a_bibliography_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    papers = [paper(1, title="Red [b]cups[/b]", authors=[f"A{i} B{i}" for i in range(7)]), paper(2, title="Blue birds")]
    with Arxiv(papers) as arxiv:
        monkeypatch.setenv("OMMA_ARXIV_URL", arxiv.url)
        monkeypatch.setenv("OMMA_ARXIV_PAUSE", "0")
        assert cli.run(["ingest", "arxiv:cat:cs.CV AND date:2024", "t", "--most", "50"]) == 0
        told = capsys.readouterr().out
        assert cli.run(["ingest", "arxiv:cat:cs.CV and clip", "t"]) == 2
        assert "omma: 'and' between terms is written AND" in capsys.readouterr().err
    assert "cat:cs.CV AND submittedDate:[202401010000 TO 202412312359]" in told
    assert cli.run(["search", "t", "red cups"]) == 0
    shown = capsys.readouterr().out
    for part in ("Red [b]cups[/b]", "A0 B0, A1 B1, A2 B2, A3 B3 and 3 more", "https://arxiv.org/abs/2413.00001v1",
                 "2024-01-02"):  # fmt: skip
        assert part in shown
    assert "Blue" not in shown
    assert cli.run(["search", "t", "red", "--json"]) == 0
    (hit,) = cli_json(capsys)["hits"]
    assert (hit["id"], hit["row"]["title"]) == ("2413.00001v1", "Red [b]cups[/b]")
    assert cli.run(["search", "t", "nothing of that"]) == 0
    assert "nothing found for" in capsys.readouterr().out
    assert cli.run(["show", "t", "--bibtex", "--where", "title > 'C'"]) == 0
    assert capsys.readouterr().out.startswith("@misc{b02024_2413.00001,\n  author = {A0 B0 and A1 B1")
    assert cli.run(["show", "t", "--bibtex", "--json"]) == 0
    assert cli_json(capsys)["bibtex"].count("@misc{") == 2
    assert cli.run(["show", "t"]) == 0
    assert "table of papers" in capsys.readouterr().out
    assert cli.run(["show", "t", "--where", "version == 1"]) == 2


def cli_json(capsys):
    import json

    return json.loads(capsys.readouterr().out)
