"""An answer while it is made: pieces of text as they come, and how sure the model was of them.

    saying = Saying(vlm, [picture], "How many cups are there?")
    for piece in saying: print(piece, end="")
    saying.text, saying.confidence

Of `HFVLM` and `OmmaVLMRunner` the words come token by token, of an endpoint as it sends them; a VLM that only has
`generate` says all at once. Who stops reading stops the model; who waits in another thread, for words that may never
come, stops it between two tokens by `while_heard`.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from PIL import Image
from torch import Tensor

UNFINISHED = "\ufffd"  # a tokenizer's sign for a character of which not all bytes are there


LEFT: ContextVar[Callable[[], bool]] = ContextVar("left", default=lambda: False)


class Stopped(Exception):
    """Ends `generate` from within: nobody reads any more."""


@contextlib.contextmanager
def while_heard(left: Callable[[], bool]) -> Iterator[None]:
    """What is said within, in this thread, ends with `Stopped` between two tokens once left() is true."""
    before = LEFT.set(left)
    try:
        yield
    finally:
        LEFT.reset(before)


class Saying:
    """One answer, iterated once. text: all of it; confidence: the geometric mean of its tokens' probabilities, 0..1,
    None where the model doesn't tell; cut: whether max_new_tokens ended it before the model did; tokens: of the prompt
    with its pictures and of the answer so far, by the model's own tokenizer, None where it runs elsewhere."""

    def __init__(self, vlm: Any, images: Sequence[Image.Image], prompt: str, max_new_tokens: int = 64):
        self.vlm, self.images, self.prompt, self.max_new_tokens = vlm, list(images), prompt, max_new_tokens
        self.text, self.confidence, self.cut = "", None, False
        self._heard: Heard | None = None

    @property
    def tokens(self) -> tuple[int, int] | None:
        return None if self._heard is None else (self._heard.prompt, len(self._heard.ids))

    def __iter__(self) -> Generator[str, None, None]:
        if hasattr(self.vlm, "prompts") and hasattr(self.vlm, "generation"):
            pieces: Any = self._tokens()
        elif hasattr(self.vlm, "stream"):
            pieces = iter(self.vlm.stream(self.images, self.prompt, self.max_new_tokens))
        else:
            pieces = iter([self.vlm.generate(self.images, self.prompt, max_new_tokens=self.max_new_tokens)])
        try:
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    self.cut = bool(end.value)
                    break
                if LEFT.get()():
                    raise Stopped
                self.text += piece
                if piece:
                    yield piece
        finally:
            if hasattr(pieces, "close"):
                pieces.close()

    def _tokens(self) -> Generator[str, None, bool]:
        inputs = self.vlm.prompts([self.images], [self.prompt])
        heard = self._heard = Heard(inputs["input_ids"].shape[1])
        told = self.vlm.generation(self.max_new_tokens, {}) | {"streamer": heard, "logits_processor": [heard.score]}
        failed: list[BaseException] = []

        def run() -> None:
            try:
                with torch.no_grad():
                    self.vlm.model.generate(**inputs, **told)
            except Stopped:
                pass
            except BaseException as error:  # told to the reader, who is in another thread
                failed.append(error)
            finally:
                heard.queue.put(None)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        said = ""
        try:
            while heard.queue.get() is not None:
                text = self.vlm.read(heard.ids)
                if text.startswith(said) and not text.endswith(UNFINISHED):
                    yield text[len(said) :]
                    said = text
                else:
                    yield ""                              # a token without words is one to be stopped at, too
        finally:
            heard.stopped = True
            thread.join()
        if failed:
            raise failed[0]
        whole = self.vlm.read(heard.ids)
        same = next(n for n in range(len(said), -1, -1) if whole.startswith(said[:n]))
        yield whole[same:]  # a token may change how the ones before it are written
        self.text, self.confidence = whole, heard.confidence()
        ends = told.get("eos_token_id", self.vlm.model.generation_config.eos_token_id)
        ended = heard.ids and heard.ids[-1] in (ends if isinstance(ends, list) else [ends])
        return len(heard.ids) >= self.max_new_tokens and not ended


def answered(vlm: Any, images: Sequence[Image.Image], prompt: str, max_new_tokens: int = 64) -> str:
    """All of an answer at once, which ends between two tokens where nobody waits for it any more (`while_heard`)."""
    saying = Saying(vlm, images, prompt, max_new_tokens)
    for _ in saying:
        continue
    return saying.text


def until(pieces: Generator[str, None, None], stops: Sequence[str]) -> Generator[str, None, None]:
    """Pieces of a text up to the first place where one of `stops` begins; what may be the beginning of one waits."""
    waiting = ""
    with contextlib.closing(pieces):
        for piece in pieces:
            waiting += piece
            if found := [place for place in map(waiting.find, stops) if place >= 0]:
                yield waiting[: min(found)]
                return
            held = max((n for stop in stops for n in range(1, len(stop)) if waiting.endswith(stop[:n])), default=0)
            if ready := waiting[: len(waiting) - held]:
                yield ready
            waiting = waiting[len(waiting) - held :]
    if waiting:
        yield waiting


class Heard:
    """What `generate` tells while it runs: the ids of the answer, and the logits that each was chosen by."""

    def __init__(self, prompt: int):
        self.prompt, self.left, self.ids, self.logits = prompt, prompt, [], []
        self.queue: queue.SimpleQueue = queue.SimpleQueue()
        self.stopped = False

    def put(self, ids: Tensor) -> None:
        """Of a streamer: the prompt comes first, then a token at a time."""
        if self.stopped:
            raise Stopped
        if self.left:
            self.left = 0
            return
        self.ids += ids.reshape(-1).tolist()
        self.queue.put(True)

    def end(self) -> None:
        """Of a streamer: nothing is held back here."""

    def score(self, _: Tensor, logits: Tensor) -> Tensor:
        """Of a logits processor: changes nothing."""
        self.logits.append(logits[0].float().log_softmax(-1).cpu())
        return logits

    def confidence(self) -> float | None:
        if not self.ids:
            return None
        sure = [row[token] for row, token in zip(self.logits, self.ids, strict=False)]
        return float(torch.stack(sure).mean().exp())
