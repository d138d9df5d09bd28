"""`omma serve` in a thread of the test, and who asks it."""

import base64
import contextlib
import http.client
import io
import json
import threading
import time

import numpy as np
import uvicorn
from PIL import Image

from conftest import ColourEncoder
from omma.retrieval.build import build_index
from omma.web.server import make_app
from omma.web.serving import listen
from omma.web.site import Site


class Speaker:
    """A VLM that repeats what it was shown, and answers what is asked of sources."""

    name = "speaker"

    def generate(self, images, prompt, max_new_tokens=64):
        return "".join(self.stream(images, prompt, max_new_tokens))

    def stream(self, images, prompt, max_new_tokens):
        if "<source" in prompt:
            yield from ("By the sea ", "[1], not [9]. ", "<img src=//evil.example>")
            return
        yield from (f"{len(images)} pictures", "; ", prompt)


def write_pictures(folder):
    """Four pictures, one of them in a folder of its own, and a text."""
    (folder / "old").mkdir(parents=True)
    colours = {"fire": (250, 0, 0), "rose": (220, 40, 20), "old/sea": (0, 0, 250), "grass": (0, 250, 0)}
    for name, colour in colours.items():
        pixels = np.full((40, 60, 3), colour, np.uint8)
        pixels[:, : 6 * len(name)] //= 2
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "story.txt").write_text("The red house stands by the sea.")
    return folder


@contextlib.contextmanager
def pictures_site(folder):
    """A site of `write_pictures`, seen by their colours, with a VLM that repeats."""
    folder = write_pictures(folder / "Pictures")
    with build_index(folder, folder.parent / "index.db", encoder=ColourEncoder()) as index:
        made = Site(index, vlm=Speaker())
        yield made
        made.close()


def data_url(colour=(250, 0, 0), size=(16, 16)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


@contextlib.contextmanager
def running(site, token=None, **limits):
    listening = listen("127.0.0.1", 0)
    app = make_app(site, token, listening.getsockname()[1])
    vars(app).update(limits)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", loop="asyncio"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Client(app.port)
    finally:
        server.should_exit = True
        thread.join()


class Client:
    def __init__(self, port):
        self.port, self.url = port, f"http://127.0.0.1:{port}/"

    def raw(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read()
        finally:
            connection.close()

    def get(self, path, **headers):
        status, _, data = self.raw("GET", path, **headers)
        return status, json.loads(data)

    def post(self, path, said, **headers):
        status, _, data = self.raw("POST", path, json.dumps(said), **{"Content-Type": "application/json", **headers})
        return status, json.loads(data)
