"""The search page in Chromium, by its keys alone: filters, a picture's page, a picture as the question, two eyes."""

import base64
import contextlib
import io
import threading
import time

import numpy as np
import pytest
import uvicorn
from chromium import Chromium
from PIL import Image

from conftest import ColourEncoder
from omma.retrieval.build import build_index
from omma.web.server import make_app
from omma.web.serving import listen
from omma.web.site import Site

pytestmark = pytest.mark.browser
UNLABELLED = """[...document.querySelectorAll('input, select, button, a, img, pre')].filter(part => {
    const label = part.closest('label')?.textContent || part.getAttribute('aria-label') || part.textContent || part.alt
        || document.querySelector(`label[for='${part.id}']`)?.textContent;
    return !label?.trim() && part.offsetParent && !part.closest('a');
}).map(part => part.outerHTML).join()"""
WIDER = "document.documentElement.scrollWidth > innerWidth"
NAMES = "[...document.querySelectorAll('#found .name')].map(name => name.textContent).join()"
TOKEN = "a-token-of-many-letters"


class Explaining(ColourEncoder):
    """An eye that says why: the left half of every picture."""

    def explain(self, image, text, kind="itc"):
        class Found:
            patches, words, score = np.tile([1.0, 0.0], (4, 2))[:, :4], [(text, 1.0)], 0.5

        return Found()


class Inverted(ColourEncoder):
    """Another eye, which sees other colours."""

    name = "inverted"
    fingerprint = "inverted"

    def encode_image(self, images, **options):
        other = [Image.fromarray(255 - np.asarray(image.convert("RGB"))) for image in images]
        return super().encode_image(other, **options)


@contextlib.contextmanager
def served(index, token=None, others=(), vlm=None, reports=()):
    listening = listen("127.0.0.1", 0)
    site = Site(index, others, vlm, reports=reports)
    app = make_app(site, token, listening.getsockname()[1])
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", loop="asyncio"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{app.port}/"
    finally:
        server.should_exit = True
        thread.join()
        site.close()


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


def search(page, words):
    page.press("/")
    page.write(words)
    page.press("Enter")
    page.wait("document.querySelector('#told').textContent.includes('found')")


def test_a_search_by_keys_alone_a_pictures_page_and_back(index, tmp_path):
    with served(index) as url, Chromium(tmp_path) as page:
        page.open(url)
        page.wait("document.querySelector('#holds').textContent.includes('3 pictures, 1 text in Pictures')")
        search(page, "red")
        assert page.value(NAMES).startswith("Pictures/story.md:1") or page.value(NAMES).startswith("Pictures/fire.png")
        assert page.value("location.search") == "?q=red"
        page.wait("[...document.querySelectorAll('#found img')].every(img => img.naturalWidth)")
        page.value("document.activeElement.blur()")
        while not page.value("document.activeElement.textContent").startswith("Pictures/fire.png"):
            page.press("ArrowRight")
        page.press("Enter")
        page.wait("document.querySelector('#picture').naturalWidth === 160")
        assert page.value("document.querySelector('#caption').textContent") == "a picture of fire <b>&"
        page.wait("document.querySelectorAll('#alike li').length === 2")
        page.value("document.querySelector('#why').focus()")
        page.press("Enter")
        page.wait("!document.querySelector('#heat').hidden")
        told = page.value("[...document.querySelector('#heat').getContext('2d').getImageData(0, 0, 2, 1).data]")
        assert (told[3], told[7]) == (255, 0)
        assert page.value(UNLABELLED) == ""
        page.press("Escape")
        page.wait("!document.querySelector('#found').hidden && document.querySelector('#item').hidden")
        page.wait("document.activeElement.textContent.startsWith('Pictures/fire.png')")  # where the keys were before
        assert page.value("location.search") == "?q=red"
        for scheme in ("light", "dark"):
            for width in (1280, 360):
                page.size(width, 800, scheme, phone=width < 500)
                assert not page.value(WIDER), (scheme, width)
        assert page.value(UNLABELLED) == ""
        assert page.problems == []


def test_filters_stand_in_the_address_and_what_finds_nothing_says_so(index, tmp_path):
    with served(index) as url, Chromium(tmp_path) as page:
        page.open(f"{url}?q=red&kind=text")
        page.wait(f"{NAMES} === 'Pictures/story.md:1'")
        assert page.value("document.querySelector('#kind').value") == "text"
        page.open(f"{url}?q=red&until=1999-01-01")
        page.wait("document.querySelector('#told').textContent.startsWith('Nothing fits')")
        page.open(f"{url}?q=red&where=width+%3E%3D+1+and+folder+%3D%3D+%27sea%27")
        page.wait(f"{NAMES} === 'Pictures/sea/water.png'")
        assert page.value("document.querySelector('#narrowed').textContent") == "(1)"
        page.open(f"{url}?q=red&where=open%28%27x%27%29")
        page.wait("document.querySelector('#told.bad')?.textContent.includes('a column is expected')")
        page.open(f"{url}?q=red&item=1&box=0.1+0+0.5+1,0.5+0.25+1+0.75,2+0+0+0,x")
        page.wait("document.querySelectorAll('.box').length === 2")
        sides = page.value("[...document.querySelectorAll('.box')].map(box => box.style.cssText).join()")
        assert sides == "inset: 0% 50% 0% 10%;,inset: 25% 0% 25% 50%;"
        page.open(f"{url}?q=red&item=99")
        page.wait("document.querySelector('#told').textContent.startsWith('no item 99 here')")
        page.problems.clear()                              # the browser itself notes the 404


def test_reports_are_listed_and_a_page_of_anybody_can_do_nothing(index, tmp_path):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "bad.html").write_text(
        "<!doctype html><title>Numbers</title><body><p id=p>as written</p><script>p.textContent = 'changed'</script>"
        "<img src=thumbnail/1><form action=/search><button>go</button></form>")  # fmt: skip
    with served(index, reports=[tmp_path / "reports"]) as url, Chromium(tmp_path) as page:
        page.open(url)
        page.wait("!document.querySelector('#to-reports').hidden")
        page.value("document.querySelector('#to-reports').focus()")
        page.press("Enter")
        page.wait("document.querySelector('#reports tbody a')?.textContent === 'Numbers'")
        assert page.value("document.activeElement.id") == "reports-head"
        assert page.value(UNLABELLED) == ""
        assert page.problems == []
        page.value("document.querySelector('#reports tbody a').focus()")
        page.press("Enter")
        page.wait("document.title === 'Numbers'")
        assert page.value("document.querySelector('#p').textContent") == "as written"
        assert page.value("document.querySelector('img').naturalWidth") == 0
        assert page.value("self.origin") == "null"
        page.value("document.querySelector('button').click()")
        assert page.value("document.title") == "Numbers"
        assert all("blocked" in problem.lower() or "violates" in problem for problem in page.problems), page.problems


class Speaker:
    name, asked = "speaker", 0

    def generate(self, images, prompt, max_new_tokens=64):
        Speaker.asked += 1
        return "By the sea [1]. <img src=//evil.example/a.png> [9]"


def test_an_answer_is_text_in_which_only_its_sources_are_links(index, tmp_path):
    with served(index, vlm=Speaker()) as url, Chromium(tmp_path) as page:
        page.open(url)
        page.wait("!document.querySelector('#answer').hidden")
        page.press("/")
        page.write("where does the red house stand?")
        page.value("document.querySelector('#answer').focus()")
        page.press("Enter")
        page.wait("document.querySelector('#told').textContent.startsWith('Answered')")
        assert page.value("document.querySelector('#said').textContent").startswith("By the sea [1].")
        assert page.value("document.querySelectorAll('#said img').length") == 0
        assert page.value("[...document.querySelectorAll('#said a')].map(mark => mark.textContent).join()") == "[1]"
        page.value("document.querySelector('#cited a').click()")
        page.wait("!document.querySelector('#item').hidden")
        assert page.value("document.querySelector('#cited a').textContent").endswith(
            page.value("document.querySelector('#place').textContent"))  # fmt: skip
        page.press("Escape")
        page.wait("document.querySelector('#item').hidden && !document.querySelector('#answered').hidden")
        page.wait("document.querySelector('#cited a')")
        assert Speaker.asked == 1                          # the answer was kept
        assert page.value(UNLABELLED) == ""
        assert page.problems == []


def test_a_picture_can_be_the_question(index, tmp_path):
    out = io.BytesIO()
    Image.new("RGB", (30, 20), (0, 0, 250)).save(out, "PNG")
    data = base64.b64encode(out.getvalue()).decode()
    with served(index) as url, Chromium(tmp_path) as page:
        page.open(url)
        page.wait("document.querySelector('#holds').textContent")
        page.value(f"""(() => {{
            const bytes = Uint8Array.from(atob('{data}'), letter => letter.charCodeAt(0));
            const given = new DataTransfer();
            given.items.add(new File([bytes], 'mine.png', {{type: 'image/png'}}));
            const file = document.querySelector('#file');
            file.files = given.files;
            file.dispatchEvent(new Event('change'));
        }})()""")
        page.wait(f"{NAMES}.startsWith('Pictures/sea/water.png')")
        assert page.value("document.querySelector('#given').naturalWidth") == 30
        page.value("document.querySelector('#without').click()")
        page.wait("!document.querySelector('#start').hidden")
        assert page.problems == []


def test_two_eyes_stand_side_by_side_and_a_token_opens_the_page_once(index, tmp_path):
    with served(index, TOKEN, [Inverted()]) as url, Chromium(tmp_path) as page:
        page.open(url)
        page.wait("document.querySelector('input[type=password]')")
        page.problems.clear()                              # the browser itself notes the 401
        assert page.value("getComputedStyle(document.querySelector('.card')).borderRadius") == "12px"
        assert page.value(UNLABELLED) == ""
        page.open(f"{url}?token={TOKEN}")
        page.wait("document.querySelector('#holds').textContent.includes('colours and inverted')")
        assert TOKEN not in page.value("location.href")
        page.open(f"{url}?q=red&by=look&eye=side+by+side")
        page.wait("document.querySelectorAll('.sides section').length === 2")
        firsts = "[...document.querySelectorAll('.sides .grid')].map(side => side.querySelector('.name').textContent)"
        first = page.value(firsts)
        assert first[0] == "Pictures/fire.png" != first[1]
        assert "for inverted" in page.value("document.querySelector('.sides .scored').textContent")
        assert page.problems == []
