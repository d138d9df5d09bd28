"""The page of blind pairs: what was counted, what they differ in, and the pairs with their pictures."""

import io
import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from omma import cli
from omma.eval.blind import mine_blind_pairs
from omma.eval.blind_page import SHOWN, page_of_pairs
from omma.show import describe
from omma.table import Table
from omma.views import blind_tables
from pair_folders import make_pairs, picture


def mined(folder, n=12):
    """Two eyes on n pictures: one takes all for the same, the other tells odd from even ones."""
    table = Table.create(folder / "pictures")
    captions = [[{"text": f"<b>{i}</b>", "language": "en"}] for i in range(n)]
    table.append([{"id": f"p{i}", "bytes": picture(i), "captions": captions[i]} for i in range(n)])
    rng = np.random.default_rng(0)
    eye = np.array([1, 0, 0]) + 0.02 * rng.normal(size=(n, 3))
    other = np.eye(3)[np.arange(n) % 2] + 0.02 * rng.normal(size=(n, 3))
    for name, rows in (("one", eye), ("other", other)):
        table.add_column(f"embed.{name}", (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16))
    return mine_blind_pairs("embed.one", "embed.other", table=Table.open(folder / "pictures"), out=folder / "blind",
                            near=None)  # fmt: skip


def test_the_page_shows_counts_pairs_and_their_pictures_without_being_told_where_they_are(tmp_path):
    found = mined(tmp_path)
    assert len(found) == 36
    told = page_of_pairs(tmp_path / "blind", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert (told["pairs"], told["pictures"]) == (36, 12)
    assert "Pictures that one takes for the same" in page
    assert page.count('aria-label="Pair ') == 36
    assert page.count("<img") == 72
    assert page.count("data:image/") == 72
    assert "&lt;b&gt;0&lt;/b&gt;" in page
    assert not re.search(r"<script|https?://|<b>0</b>", page)
    first = found.rows(1)[0]
    assert f"<dt>one</dt><dd>{first['eye']:.3f}</dd>" in page
    for name in ("compared", "blind"):
        assert f'<div class="what">{name}</div>' in page
    assert re.search(r'<div class="big">66</div>', page)                # 12 * 11 / 2


def test_without_its_table_it_says_so_and_pairs_of_any_hand_have_a_page(tmp_path):
    mined(tmp_path)
    shutil.rmtree(tmp_path / "pictures")
    assert page_of_pairs(tmp_path / "blind", tmp_path / "page.html")["pictures"] == 0
    assert (tmp_path / "page.html").read_text().count("no picture") == 72
    make_pairs(tmp_path / "more", n=SHOWN + 3)
    told = page_of_pairs(tmp_path / "more" / "blind", tmp_path / "page.html", data=tmp_path / "more" / "pictures")
    assert (told["pairs"], told["pictures"]) == (SHOWN, 2 * SHOWN)
    assert f"{SHOWN} of {SHOWN + 3} pairs" in (tmp_path / "page.html").read_text()
    with pytest.raises(ValueError, match=r"no pairs\.parquet"):
        page_of_pairs(tmp_path, tmp_path / "page.html")


def test_patterns_that_are_missed_stand_in_a_table_of_their_own(tmp_path):
    found = mined(tmp_path)
    patterns = [{"pattern": "colour", "blind": 3, "base": 9, "share": 0.75, "base_share": 0.25, "p": 0.001,
                 "p_holm": 0.009, "enriched": True},
                {"pattern": "state", "blind": 1, "base": 9, "share": 0.25, "base_share": None, "p": 1.0, "p_holm": 1.0,
                 "enriched": False}]  # fmt: skip
    found.write(tmp_path / "blind", {"missed": patterns}, differences=[["colour"]] * len(found))
    page_of_pairs(tmp_path / "blind", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert '<th scope="row">colour</th><td>3</td><td>75.0</td><td>25.0</td><td>0.009</td><td>yes</td>' in page
    assert page.count("<dt>they differ in</dt><dd>colour</dd>") == len(found)
    told = json.loads(pq.read_schema(tmp_path / "blind" / "pairs.parquet").metadata[b"omma"])
    assert told["of"] == {"eye": "embed.one", "reference": "embed.other", "table": str(tmp_path / "pictures")}


def test_omma_show_says_what_pairs_there_are_and_writes_their_page(tmp_path, capsys):
    mined(tmp_path)
    told = describe(tmp_path / "blind")
    assert (told["kind"], told["pairs"], told["counts"]["blind"]) == ("pairs", 36, 36)
    assert cli.run(["show", str(tmp_path / "blind")]) == 0
    assert "embed.other" in capsys.readouterr().out
    assert cli.run(["show", str(tmp_path / "blind"), "--html", str(tmp_path / "page.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 36


def test_names_of_blind_pairs_are_folded_and_never_cut():
    names = [f"a-folder-with-a-name/and-another-one-{n}" for n in "ab"]
    pair = {"a": names[0], "b": names[1], "eye": 0.9, "reference": 0.1, "differences": ["position", "colour", "text"]}
    told = {"above": 0.5, "below": 0.1, "eye": {"mean": 0.2}, "reference": {"mean": 0.1}, "pairs": 10}
    result = {"counts": {}, "above": 0.9, "below": 0.6, "eye": "embed.a", "reference": "embed.b", "exact": True,
              "rate": None, "pairs": [pair], "missed": None, "other_way": None, "suggested": told,
              "out": None}  # fmt: skip
    page = Console(width=60, file=io.StringIO(), legacy_windows=False)
    page.print(blind_tables(result)[1])
    lines = [line.split("│")[1:-1] for line in page.file.getvalue().splitlines() if line.startswith("│")]
    one, other = ("".join(line[at].strip() for line in lines) for at in (2, 3))
    assert [one, other] == names
