"""The search page in Chromium, by its keys alone: filters, a picture's page, a picture as the question, two eyes."""

import io
import re
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from shown import Explaining, Inverted, Speaker, serving

from browsing import unnamed
from omma.retrieval.build import build_index

pytestmark = pytest.mark.browser
TOKEN = "a-token-of-many-letters"


@pytest.fixture
def index(tmp_path):
    folder = tmp_path / "Pictures"
    (folder / "sea").mkdir(parents=True)
    for n, (name, colour) in enumerate({"fire": (250, 0, 0), "sea/water": (0, 0, 250), "grass": (0, 250, 0)}.items()):
        pixels = np.full((120, 160, 3), colour, np.uint8)
        pixels[:, : 20 * (n + 1)] //= 3
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a picture of {name.rpartition('/')[2]} <b>&")
    (folder / "story.md").write_text("The red house stands by the sea.")
    build_index(folder, tmp_path / "index.db", encoder=Inverted()).close()
    with build_index(folder, tmp_path / "index.db", encoder=Explaining()) as opened:
        yield opened


def found(page):
    """The hits, best first."""
    return page.get_by_role("region", name="What was found").get_by_role("link")


def told(page):
    return page.get_by_role("main").get_by_role("status")


@pytest.mark.parametrize("where", ["width >", "colour == 'red'"])
def test_a_where_that_is_wrong_is_shown_where_it_is_mended(index, page, problems, where):
    with serving(index) as url:
        page.goto(f"{url}?{urlencode({'q': 'red', 'where': where})}")
        expect(told(page)).to_contain_text("no column 'colour'" if "colour" in where else "cannot read")
        field = page.get_by_role("textbox", name="Where")
        expect(field).to_be_visible()
        field.fill("width >= 160")
        field.press("Enter")
        expect(told(page)).to_have_text("3 found, best first")
    assert ["400" in problem for problem in problems] == [True], problems  # the refused request
    problems.clear()


def test_a_search_by_keys_alone_a_pictures_page_and_back(index, page):
    with serving(index) as url:
        page.goto(url)
        expect(page.get_by_text("3 pictures, 1 text in Pictures, seen by colours.")).to_be_visible()
        page.keyboard.press("/")
        expect(page.get_by_role("searchbox", name="What to look for")).to_be_focused()
        page.keyboard.type("red")
        page.keyboard.press("Enter")
        expect(told(page)).to_have_text("4 found, best first")
        expect(page).to_have_url(f"{url}?q=red")
        expect(found(page)).to_contain_text([re.compile("fire.png|story.md:1")] * 2 + [re.compile("png")] * 2)
        for picture in found(page).get_by_role("img").all():
            expect(picture).to_have_js_property("naturalWidth", 160)
        fire = found(page).filter(has_text="Pictures/fire.png")
        page.get_by_role("button", name="Search").focus()
        for _ in found(page).all():
            page.keyboard.press("ArrowRight")              # to the last
            if fire.evaluate("link => link === document.activeElement"):
                break
        expect(fire).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Pictures/fire.png")).to_be_focused()
        item = page.get_by_role("article", name="Pictures/fire.png")
        expect(item.get_by_role("paragraph").filter(has_text="a picture of fire <b>&")).to_be_visible()
        expect(item.get_by_role("img", name="a picture of fire <b>&")).to_have_js_property("naturalWidth", 160)
        alike = page.get_by_role("region", name="Looks like this")
        expect(alike.get_by_role("listitem")).to_have_count(2)
        why = page.get_by_role("button", name="Why: show what counted", pressed=False)
        why.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Why: show what counted", pressed=True)).to_be_focused()
        expect(told(page)).to_have_text(re.compile("Red patches counted most, above all row 1 of 4, column 1 of 4"))
        reds = page.locator("canvas").evaluate("canvas => [...canvas.getContext('2d').getImageData(0, 0, 2, 1).data]")
        assert (reds[3], reds[7]) == (255, 0)
        assert unnamed(page) == []
        page.keyboard.press("Escape")
        expect(item).to_be_hidden()
        expect(fire).to_be_focused()                       # where the keys were before
        expect(page).to_have_url(f"{url}?q=red")


def test_filters_stand_in_the_address_and_what_finds_nothing_says_so(index, page, problems):
    with serving(index) as url:
        page.goto(f"{url}?q=red&kind=text")
        expect(found(page)).to_contain_text(["Pictures/story.md:1"])
        page.get_by_text("Filters (1)").click()
        expect(page.get_by_label("Kind")).to_have_value("text")
        page.get_by_label("Kind").select_option("picture")
        expect(page).to_have_url(f"{url}?q=red&kind=picture")
        expect(found(page)).to_have_count(3)
        page.goto(f"{url}?q=red&until=1999-01-01")
        expect(told(page)).to_have_text(re.compile("^Nothing fits"))
        page.get_by_text("Filters (1)").click()
        expect(page.get_by_label("To", exact=True)).to_have_value("1999-01-01")
        page.goto(f"{url}?q=red&where=width+%3E%3D+1+and+folder+%3D%3D+%27sea%27")
        expect(found(page)).to_contain_text(["Pictures/sea/water.png"])
        expect(page.get_by_text("Filters (1)")).to_be_visible()
        page.goto(f"{url}?q=red&where=open%28%27x%27%29")
        expect(told(page)).to_have_text(re.compile("a column is expected"))
        page.goto(f"{url}?q=red&item=1&box=0.1+0+0.5+1,0.5+0.25+1+0.75,2+0+0+0,x")
        expect(page.locator(".box")).to_have_count(2)
        picture = page.get_by_role("article").get_by_role("img").first.bounding_box()
        frames = [box.bounding_box() for box in page.locator(".box").all()]
        wide, high = picture["width"], picture["height"]
        sides = [[(frame["x"] - picture["x"]) / wide, (frame["y"] - picture["y"]) / high, frame["width"] / wide,
                  frame["height"] / high] for frame in frames]  # fmt: skip
        np.testing.assert_allclose(sides, [[0.1, 0, 0.4, 1], [0.5, 0.25, 0.5, 0.5]], atol=0.01)
        assert problems == ["Failed to load resource: the server responded with a status of 400 (Bad Request)"]
        page.goto(f"{url}?q=red&item=99")
        expect(told(page)).to_have_text(re.compile("^no item 99 here"))
        assert "404" in problems.pop()
        problems.clear()


def test_reports_are_listed_and_a_page_of_anybody_can_do_nothing(index, page, problems, tmp_path):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "bad.html").write_text(
        "<!doctype html><title>Numbers</title><body><p id=p>as written</p><script>p.textContent = 'changed'</script>"
        "<img alt=thumb src=thumbnail/1><form action=/search><button>go</button></form>")  # fmt: skip
    with serving(index, reports=[tmp_path / "reports"]) as url:
        page.goto(url)
        page.get_by_role("link", name="Reports").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Reports")).to_be_focused()
        listed = page.get_by_role("table").get_by_role("rowheader").get_by_role("link")
        expect(listed).to_have_text(["Numbers"])
        assert unnamed(page) == []
        assert problems == []
        listed.focus()
        page.keyboard.press("Enter")
        expect(page).to_have_title("Numbers")
        expect(page.get_by_role("paragraph")).to_have_text("as written")
        expect(page.get_by_role("img", name="thumb")).to_have_js_property("naturalWidth", 0)
        assert page.evaluate("self.origin") == "null"
        at = page.url
        page.get_by_role("button", name="go").click()
        expect(page).to_have_title("Numbers")
        assert page.url == at
        assert problems != []
        assert all("blocked" in problem.lower() or "violates" in problem for problem in problems), problems
        problems.clear()


def test_an_answer_is_text_in_which_only_its_sources_are_links(index, page):
    speaker = Speaker()
    with serving(index, vlm=speaker) as url:
        page.goto(url)
        expect(page.get_by_role("button", name="Ask")).to_be_visible()
        page.keyboard.press("/")
        page.keyboard.type("where does the red house stand?")
        page.get_by_role("button", name="Ask").focus()
        page.keyboard.press("Enter")
        expect(told(page)).to_have_text(re.compile("^Answered"))
        answer = page.get_by_role("region", name="The answer")
        expect(answer).to_contain_text("By the sea [1]. ‹img (link left out)")
        expect(answer.get_by_role("img")).to_have_count(0)
        expect(answer.get_by_role("paragraph").get_by_role("link")).to_have_text(["[1]"])
        cited = answer.get_by_role("list").get_by_role("link")
        place = cited.inner_text().removeprefix("[1] ")
        cited.click()
        expect(page.get_by_role("heading", name=place)).to_be_focused()
        page.keyboard.press("Escape")
        expect(answer).to_contain_text("By the sea [1].")
        expect(cited).to_have_text(f"[1] {place}")
        assert speaker.asked == 1                          # the answer was kept
        assert unnamed(page) == []


def test_a_picture_can_be_the_question(index, page):
    out = io.BytesIO()
    Image.new("RGB", (30, 20), (0, 0, 250)).save(out, "PNG")
    with serving(index) as url:
        page.goto(url)
        expect(page.get_by_text("3 pictures, 1 text")).to_be_visible()
        with page.expect_file_chooser() as chosen:
            page.get_by_label("By picture").click()
        chosen.value.set_files({"name": "mine.png", "mimeType": "image/png", "buffer": out.getvalue()})
        expect(found(page).first).to_contain_text("Pictures/sea/water.png")
        expect(page.get_by_role("img", name="The picture that is searched by")).to_have_js_property("naturalWidth", 30)
        page.get_by_role("button", name="Search without this picture").click()
        expect(page.get_by_text("Describe a picture or a page")).to_be_visible()
        expect(found(page)).to_have_count(0)
        expect(page.get_by_role("searchbox")).to_be_focused()


def test_two_eyes_stand_side_by_side(index, page):
    with serving(index, others=[Inverted()]) as url:
        page.goto(f"{url}?q=red&by=look&eye=side+by+side")
        eyes = "colours", "inverted"
        colours, inverted = (page.get_by_role("region", name=eye).get_by_role("link") for eye in eyes)
        expect(colours.first).to_contain_text("Pictures/fire.png")
        expect(colours.first).to_contain_text("place 3 for inverted")
        expect(inverted.last).to_contain_text("Pictures/fire.png")
        expect(inverted.last).to_contain_text("place 1 for colours")


def test_a_token_typed_or_in_the_address_opens_the_page(index, page, new_page, problems):
    with serving(index, TOKEN) as url:
        page.goto(url)
        expect(page.get_by_role("alert")).to_have_text("This omma is someone's own, and takes its token.")
        expect(page.get_by_label("Token")).to_be_focused()
        expect(page.locator(".card")).to_have_css("border-radius", "12px")  # its style needs no token
        assert unnamed(page) == []
        page.keyboard.type("a wrong one")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("That is not the token.")
        assert [problem[-18:] for problem in problems] == ["401 (Unauthorized)"] * 2  # the browser itself notes them
        problems.clear()
        expect(page.get_by_label("Token")).to_be_focused()  # what is typed before is lost
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_text("seen by colours")).to_be_visible()
        page.reload()
        expect(page.get_by_text("seen by colours")).to_be_visible()
        other = new_page()
        other.goto(f"{url}?token={TOKEN}")
        expect(other.get_by_text("seen by colours")).to_be_visible()
        assert (page.url, other.url) == (url, url)
