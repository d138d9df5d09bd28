"""Reports over HTTP: which there are, that they can do nothing, and that nothing outside of their folders is one."""

import json
import os
import shutil

import pytest

from conftest import ColourEncoder, write_coloured_table
from omma.eval.run import evaluate
from omma.retrieval.build import build_index
from omma.web.gate import Refused
from omma.web.reports import DEEPEST, Reports
from omma.web.site import Site
from pair_folders import make_pairs
from served import Speaker, running, write_pictures

PAGE = "<!doctype html><title>Tokens &amp; more\n</title><script>alert(1)</script><img src=https://a.example/>"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A page, a report of an evaluation and pairs."""
    base = tmp_path_factory.mktemp("made")
    write_coloured_table(base / "pictures", n=9)
    evaluate(ColourEncoder(), "retrieval", data=base / "pictures", out=base / "reports" / "eye")
    make_pairs(base / "pairs")
    (base / "pairs" / "blind").rename(base / "reports" / "blind")
    (base / "reports" / "bench").mkdir()
    (base / "reports" / "bench" / "report.html").write_text(PAGE)
    (base / "reports" / "bench" / "report.json").write_text("{}")
    (base / "reports" / "bench" / "rows.parquet").write_text("")
    return base / "reports"


@pytest.fixture
def folder(source, tmp_path):
    return shutil.copytree(source, tmp_path / "reports")


def by_place(reports):
    return {one["place"]: one for one in reports.listed()}


def test_pages_reports_and_pairs_are_listed_by_what_they_are_the_newest_first(folder):
    os.utime(folder / "eye" / "report.json", (0, 4e9))
    listed = Reports([folder]).listed()
    assert [(one["title"], one["kind"], one["place"]) for one in listed[:1]] == [
        ("colours on retrieval", "eval", "reports/eye")]  # fmt: skip
    assert listed[0]["date"] == "2096-10-02T07:06:40+00:00"
    assert {one["place"]: (one["title"], one["kind"]) for one in listed[1:]} == {
        "reports/blind": ("Pairs that one eye takes for the same", "blind"),
        "reports/bench/report.html": ("Tokens & more", "page")}  # fmt: skip
    assert str(folder.parent) not in json.dumps(listed)


def test_each_opens_as_a_page_and_one_that_changed_is_made_anew(folder):
    reports = Reports([folder])
    pages = {place: reports.page(one["id"]).decode() for place, one in by_place(reports).items()}
    assert pages["reports/bench/report.html"] == PAGE
    assert "<h1>What colours sees</h1>" in pages["reports/eye"]
    assert pages["reports/blind"].count('aria-label="Pair ') == 4
    eye = by_place(reports)["reports/eye"]["id"]
    assert reports.page(eye) is reports.page(eye)
    told = json.loads((folder / "eye" / "report.json").read_text())
    (folder / "eye" / "report.json").write_text(json.dumps(told | {"model": "another"}))
    assert "<h1>What another sees</h1>" in reports.page(eye).decode()


def test_what_is_hidden_too_deep_or_reached_by_a_link_is_no_report(folder, tmp_path):
    (tmp_path / "private.html").write_text("<title>private</title>")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.html").write_text("<title>elsewhere</title>")
    (folder / "link.html").symlink_to(tmp_path / "private.html")
    (folder / "folder").symlink_to(tmp_path / "elsewhere")
    (folder / "gone.html").symlink_to(tmp_path / "gone.html")
    (folder / "named.html").mkdir()
    deep = folder.joinpath(*"abcdefgh"[: DEEPEST + 1])
    for place in (folder / ".git", deep, deep.parent):
        place.mkdir(parents=True, exist_ok=True)
        (place / "page.html").write_text("x")
    (folder / "own.html").symlink_to(folder / "bench" / "report.html")
    found = by_place(Reports([folder]))
    inside = deep.parent.relative_to(folder).as_posix()
    assert set(found) == {"reports/eye", "reports/blind", "reports/bench/report.html", "reports/own.html",
                          f"reports/{inside}/page.html"}  # fmt: skip
    assert found[f"reports/{inside}/page.html"]["title"] == "page"
    for number in ("../private.html", "%2e%2e/private.html", "0" * 16, ""):
        with pytest.raises(Refused, match="no report"):
            Reports([folder]).page(number)


def test_what_is_broken_is_told_and_leaves_the_others(folder):
    (folder / "eye" / "report.json").write_text('{"model": 1}')
    (folder / "blind" / "pairs.parquet").write_bytes(b"PAR1")
    reports = Reports([folder])
    found = by_place(reports)
    assert found["reports/eye"]["title"] == "a report that can't be read"
    for place in ("reports/eye", "reports/blind"):
        with pytest.raises(ValueError, match=f"{place} can't be laid out"):
            reports.page(found[place]["id"])
    with pytest.raises(ValueError, match="no folder at "):
        Reports([folder / "nowhere"])


def test_over_http_a_report_is_in_a_sandbox_and_its_address_is_no_path(folder, tmp_path):
    pictures = write_pictures(tmp_path / "Pictures")
    with build_index(pictures, tmp_path / "index.db", encoder=ColourEncoder()) as index:
        site = Site(index, vlm=Speaker(), reports=[folder])
        with running(site) as web:
            assert web.get("/status")[1]["reports"] == ["reports"]
            listed = {one["place"]: one["id"] for one in web.get("/reports")[1]["reports"]}
            for number in listed.values():
                status, headers, _ = web.raw("GET", f"/report/{number}")
                assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
                assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
                assert "script-src" not in headers["content-security-policy"]
                assert headers["x-content-type-options"] == "nosniff"
            for path in ("..%2freports%2feye%2freport.json", "eye", "%2fetc%2fpasswd"):
                assert web.raw("GET", f"/report/{path}")[0] == 404
            (folder / "blind" / "pairs.parquet").write_bytes(b"PAR1")
            status, told = web.get(f"/report/{listed['reports/blind']}")
            assert (status, str(folder.parent) in str(told)) == (400, False)
            with running(site, "a-token-of-many-letters") as guarded:
                assert guarded.raw("GET", f"/report/{number}")[0] == 401
        site.close()
