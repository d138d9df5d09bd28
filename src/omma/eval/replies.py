"""What a VLM says: each distinct question is asked once, and what was said is kept on disk by what it depends on.

A reply is kept under a hash of the model's fingerprint, the prompt, the pixels of the pictures and the settings of the
generation, so a run that was killed goes on where it stopped, and a picture or a prompt that changes is asked anew. A
question that fails is not kept: the next run asks it again.
"""

import contextlib
import errno
import hashlib
import json
import math
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps


@dataclass(frozen=True)
class Question:
    """pictures: ids of what is shown, mirrored or not. words: of "first_token", the spellings of each option."""

    pictures: tuple[str, ...]
    prompt: str
    mirrored: bool = False
    max_new_tokens: int = 1
    words: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Reply:
    """What was said, or the options' log-probabilities; or the problem, why there is neither. by: what a server calls
    the model that said it, where it tells."""

    said: str = ""
    scores: tuple[float, ...] = ()
    problem: str = ""
    by: str = ""


class Kept:
    """Replies by key, in one SQLite file, or in memory when there is no path. Each `put` is on disk when it returns."""

    def __init__(self, path: Path | None):
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self.db = sqlite3.connect(":memory:" if path is None else path, timeout=60)
        try:
            self.db.execute("create table if not exists replies (key text primary key, reply text not null)")
        except sqlite3.DatabaseError as error:
            self.db.close()
            full(error, path)
            raise ValueError(f"{path} can't be read as kept replies ({error}); remove it, or choose another") from None

    def get(self, key: str) -> Reply | None:
        row = self.db.execute("select reply from replies where key = ?", (key,)).fetchone()
        if row is None:
            return None
        said, scores, *by = json.loads(row[0])
        return Reply(said, tuple(scores), by=by[0] if by else "")

    def put(self, replies: dict[str, Reply]) -> None:
        rows = [(key, json.dumps([reply.said, reply.scores, reply.by])) for key, reply in replies.items()]
        try:
            with self.db:
                self.db.executemany("insert or replace into replies values (?, ?)", rows)
        except sqlite3.OperationalError as error:
            full(error, self.path)
            raise

    def close(self) -> None:
        self.db.close()


class Replies:
    """Asks a VLM. open(ids) gives {picture id: RGB picture}; hashes: picture id -> hash of its pixels; what: how the
    bar of its questions is called."""

    def __init__(self, model: Any, kept: Kept, hashes: dict[str, str], open: Callable, batch_size: int,
                 tick: Callable[[str, int, int], None], what: str = "questions"):  # fmt: skip
        self.model, self.kept, self.hashes, self.open, self.what = model, kept, hashes, open, what
        self.batch_size, self.tick = batch_size, tick
        self.asked = 0  # questions that went to the model
        self.served: set[str] = set()  # what a server called the model in its replies, those kept from before too
        self.failures: dict[str, str] = {}  # reason -> what the first one of them said in full

    def key(self, kind: str, asked: Question) -> str:
        shown = [self.hashes[name] for name in asked.pictures]
        parts = [self.model.fingerprint, kind, asked.prompt, shown, asked.mirrored, asked.max_new_tokens, asked.words,
                 getattr(self.model, "settings", None)]  # fmt: skip
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()

    def ask(self, kind: str, questions: Sequence[Question]) -> list[Reply]:
        """One reply a question. Batches are made of all that was asked, whatever of it is known already, so a run that
        goes on computes what it would have computed."""
        keys = [self.key(kind, asked) for asked in questions]
        distinct = list(dict(zip(keys, questions, strict=True)).items())
        found: dict[str, Reply] = {}
        for start in range(0, len(distinct), self.batch_size):
            part = distinct[start : start + self.batch_size]
            known = {key: reply for key, _ in part if (reply := self.kept.get(key))}
            todo = [(key, asked) for key, asked in part if key not in known]
            fresh = dict(zip((key for key, _ in todo), self._batch(kind, [q for _, q in todo]), strict=True))
            self.kept.put({key: reply for key, reply in fresh.items() if not reply.problem})
            found |= known | fresh
            self.served |= {reply.by for reply in (*known.values(), *fresh.values()) if reply.by}
            self.tick(self.what, start + len(part), len(distinct))
        return [found[key] for key in keys]

    def _batch(self, kind: str, questions: list[Question]) -> list[Reply]:
        if not questions:
            return []
        self.asked += len(questions)
        opened = self.open({name for asked in questions for name in asked.pictures})
        shown = [[mirror(opened[name], asked.mirrored) for name in asked.pictures] for asked in questions]
        if hasattr(self.model, "try_batch"):  # each question fails by itself
            prompts = [q.prompt for q in questions]
            if kind == "first_token":
                said = self.model.try_first_token(shown, prompts, [q.words for q in questions])
            else:
                said = self.model.try_batch(shown, prompts, questions[0].max_new_tokens)
            if all(getattr(s, "fatal", False) for s in said):  # nobody is there, or not for us: so it will go on
                raise type(said[0])(f"{said[0]}; replies so far are kept", said[0].reason, fatal=True) from said[0]
            by = getattr(self.model, "served", "")
            return [Reply(problem=self._failed(s)) if isinstance(s, Exception) else
                    Reply(s, by=by) if isinstance(s, str) else Reply(scores=tuple(s), by=by) for s in said]  # fmt: skip
        try:
            return self._answers(kind, questions, shown)
        except ValueError as error:
            if len(questions) == 1:
                return [Reply(problem=self._failed(error))]
        alone = []
        for asked, images in zip(questions, shown, strict=True):
            try:
                alone += self._answers(kind, [asked], [images])
            except ValueError as error:
                alone.append(Reply(problem=self._failed(error)))
        return alone

    def _answers(self, kind: str, questions: list[Question], shown: list[list[Image.Image]]) -> list[Reply]:
        prompts, size = [asked.prompt for asked in questions], max(1, len(questions))
        if kind == "first_token":
            found: list[Reply] = []
            while (n := len(found)) < size:  # options differ from question to question
                words = questions[n].words
                run = next((k for k in range(n, size) if questions[k].words != words), size)
                values = self.model.first_token(shown[n:run], prompts[n:run], words, batch_size=size)
                found += [Reply(scores=tuple(row)) if is_sure(row) else Reply(problem="not_finite")
                          for row in (list(map(float, row)) for row in values)]  # fmt: skip
            return found
        said = self.model.generate_batch(shown, prompts, questions[0].max_new_tokens, batch_size=size)
        if len(said) != len(questions):
            raise ValueError(f"{self.model.name!r} gave {len(said)} replies to {len(questions)} questions; one each")
        return [Reply(text) for text in said]

    def _failed(self, error: Exception) -> str:
        reason = getattr(error, "reason", "model_refused")
        self.failures.setdefault(reason, str(error))
        return reason


def full(error: sqlite3.DatabaseError, path: Path | None) -> None:
    """Raises the OSError of a full disk where that is what SQLite met."""
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        raise OSError(errno.ENOSPC, "the disk is full; make room and run it again: replies so far are kept", str(path))


def is_sure(scores: Sequence[float]) -> bool:
    """Whether log-probabilities name a likeliest option: none is nan, and not all are of nothing."""
    return not any(map(math.isnan, scores)) and max(scores) > -math.inf


def mirror(image: Image.Image, mirrored: bool) -> Image.Image:
    return ImageOps.mirror(image) if mirrored else image


@contextlib.contextmanager
def keeping(path: Path | None):
    """`Kept` for a block."""
    kept = Kept(path)
    try:
        yield kept
    finally:
        kept.close()
