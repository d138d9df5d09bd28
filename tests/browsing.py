"""A page in Chromium, steered by Playwright. What its console complains about, what no script caught, a dialog, and a
request to anywhere else fail the test.

    def test_it(page): page.goto(url); page.keyboard.press("/"); expect(page.get_by_label("Name")).to_be_focused()
"""

import re
import shutil
from urllib.parse import urlsplit

import pytest

PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
DESK = {"viewport": {"width": 1280, "height": 900}}
OPTIONS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync",
           "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # fmt: skip
NAMED = ("button", "checkbox", "combobox", "dialog", "form", "img", "link", "progressbar", "radio", "searchbox",
         "textbox")  # fmt: skip
SECONDS = 30  # a machine may be busy


@pytest.fixture(scope="module")  # not the session's: while Playwright runs, other tests of its thread can't asyncio.run
def chromium():
    from playwright.sync_api import expect, sync_playwright  # here, as this file is loaded for every test

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    expect.set_options(timeout=1000 * SECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def problems():
    """What went wrong in the pages of a test; one that means something to go wrong looks at it and clears it."""
    return []


@pytest.fixture
def new_page(chromium, problems):
    """Opens a page in a profile of its own: new_page(**PHONE, color_scheme="dark")."""
    contexts = []

    def asked(request):
        if urlsplit(request.url).hostname not in (None, "", "127.0.0.1"):
            problems.append(f"asks elsewhere: {request.url}")

    def interrupted(dialog):
        problems.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def opened(**options):
        context = chromium.new_context(**{**DESK, "locale": "en-GB", "timezone_id": "UTC", **options})
        context.set_default_timeout(1000 * SECONDS)
        context.on("console", lambda said: said.type in ("error", "warning") and problems.append(said.text))
        context.on("weberror", lambda error: problems.append(f"uncaught: {error.error}"))
        context.on("dialog", interrupted)
        context.on("request", asked)
        contexts.append(context)
        return context.new_page()

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def page(new_page):
    return new_page()


def unnamed(page) -> list[str]:
    """Controls and pictures that a screen reader has no name for."""
    lines = page.locator("body").aria_snapshot().splitlines()
    return [line.strip() for line in lines if re.match(rf"\s*- '?({'|'.join(NAMED)})(?![a-z]| \")", line)]


def too_wide(page) -> str:
    """By how much the page is wider than its window. The width is the one that was asked for, as a phone's browser
    widens its own until the page fits."""
    wide, window = page.evaluate("document.documentElement.scrollWidth"), page.viewport_size["width"]
    return f"{wide} px in {window}" if wide > window else ""


def focus_shows(page) -> bool:
    """Whether what has the focus looks other than without it; it has it again afterwards."""
    part = page.locator(":focus").element_handle()
    seen = part.evaluate_handle("part => part.closest('label') ?? part").as_element()  # a frame may be its label's
    x, y, width, height = (seen.bounding_box()[side] for side in ("x", "y", "width", "height"))
    clip = {"x": max(0, x - 6), "y": max(0, y - 6), "width": width + 12, "height": height + 12}
    looks = [page.screenshot(clip=clip)]
    part.evaluate("part => part.blur()")
    looks.append(page.screenshot(clip=clip))
    part.focus()
    return looks[0] != looks[1]
