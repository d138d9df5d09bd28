"""Benchmarks as VLMEvalKit keeps them: one .tsv with the columns index, image, question and more.

A cell of `image` is a picture in base64, a list of several, or, in at most 64 characters, the index of the row whose
picture it is, which saves space where a question comes again with its options in another order. Instead of it a file
may have `image_path`, names of files. The md5 of a file is its version there.
"""

from __future__ import annotations

import ast
import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omma.data.benchmarks.files import Named, Notes, Picture, column, separated, text_of

LONGEST_INDEX = 64
MD5 = {  # as VLMEvalKit lists them
    "b6caf1133a01c6bb705cf753bb527ed8": "MMBench_DEV_EN",
    "6939fadb0ce626fefc0bdc9c64efc528": "MMBench_TEST_EN",
    "08b8fc3324a5ed74155350f57be69fbd": "MMBench_DEV_CN",
    "7e1239baf0ee4c8b513e19705a0f317e": "MMBench_TEST_CN",
    "30c05be8f2f347a50be25aa067248184": "MMBench_DEV_EN_V11",
    "8d1a704e791df6f5d9fb3ef782b65365": "MMBench_TEST_EN_V11",
    "593f9b5f6bea453d870a798b34ae4f37": "MMBench_DEV_CN_V11",
    "156e6569f9547afb16603eca16e85373": "MMBench_TEST_CN_V11",
    "68017231464752261a2526d6ca3a10c0": "SEEDBench_IMG",
    "4ec15cf864c4f16274112284f531813e": "SEEDBench2",
    "e32d3216dc4f452b0fe497a52015d1fd": "SEEDBench2_Plus",
    "96320d05e142e585e7204e72affd29f3": "ScienceQA_VAL",
    "e42e9e00f9c59a80d8a5db35bc32b71f": "ScienceQA_TEST",
    "f5dde47f24dc5a6fb6e595b409b466ac": "CCBench",
    "0f593e0d1c7df9a3d69bf1f947e71975": "AI2D_TEST",
    "fd8f463634d4fe9fbd23b876e8eea5be": "AI2D_TEST_NO_MASK",
    "e1ecd2140806c1b1bbf54b43372efb9e": "MMStar",
    "4de008f55dc4fd008ca9e15321dc44b7": "RealWorldQA",
    "d5e8af148b10ac69f535ff7b23f3f989": "BLINK",
    "8cb732b141a0cba5b42159df2839e557": "MMVP",
    "585e8ad75e73f75dcad265dfd0417d64": "MMMU_DEV_VAL",
    "c19875d11a2d348d07e5eb4bdf33166d": "MMMU_TEST",
    "f199b98e178e5a2a20e7048f5dcb0464": "MathVista_MINI",
    "b36b43c3f09801f5d368627fb92187c3": "MME",
    "c12f5acb142f2ef1f85a26ba2fbe41d5": "POPE",
    "b233b31f551bbf4056f2f955da3a92cd": "TextVQA_VAL",
    "d5ee77e1926ff10690d469c56b73eabf": "DocVQA_VAL",
    "6a2f28cac26ef2d3447374e8c6f6c8e9": "DocVQA_TEST",
    "2342e9c225222f0ef4dec545ebb126fe": "InfoVQA_VAL",
    "df535bf51b88dc9718252c34131a6227": "InfoVQA_TEST",
    "c902e0aa9be5582a7aad6dcf52734b42": "ChartQA_TEST",
    "99b62f22e224d9b2f32dcbe41359d1c9": "GQA_TestDev_Balanced",
    "748aa6d4aa9d4de798306a63718455e3": "MMVet",
    "d382a093f749a697820d3dadd61c8428": "LLaVABench",
    "72a5079dead060269ac222c5aa5128af": "COCO_VAL",
}


def rows_with_pictures(path: Path, notes: Notes) -> Iterator[tuple[dict[str, Any], list[Named]]]:
    """Each row, and its pictures in order; one that refers to no row, or is no base64, is None, and counted.

    The file is streamed; only pictures that other rows refer to are held in memory.
    """
    notes.file(path, MD5)
    held = _referred(path)
    for row in separated(path, "\t"):
        index = str(column(row, path, "index"))
        cell = text_of(row.get("image"))
        if cell is not None and len(cell) <= LONGEST_INDEX:
            if cell not in held:
                notes.note("rows take the picture of a row that has none", f"{index}: {cell}")
            cell, index = held.get(cell), cell
            pictures: list[Named] = [None] if cell is None else list(_pictures(cell, index, notes))
        elif cell is not None:
            pictures = list(_pictures(cell, index, notes))
        else:
            pictures = list(listed(text_of(row.get("image_path")) or ""))
        yield row, pictures


def _referred(path: Path) -> dict[str, str]:
    """{index: cell} of the rows whose picture others take."""
    asked = {
        cell for row in separated(path, "\t") if (cell := text_of(row.get("image"))) and len(cell) <= LONGEST_INDEX
    }
    if not asked:
        return {}
    return {row["index"]: row["image"] for row in separated(path, "\t")
            if row.get("index") in asked and len(row.get("image") or "") > LONGEST_INDEX}  # fmt: skip


def _pictures(cell: str, index: str, notes: Notes) -> Iterator[Named]:
    parts = listed(cell)
    for number, part in enumerate(parts, 1):
        try:
            yield Picture(index if len(parts) == 1 else f"{index}-{number}", base64.b64decode(part, validate=True))
        except (binascii.Error, ValueError):
            notes.note("pictures are no base64", index)
            yield None


def listed(cell: str) -> list[str]:
    """A cell that may be a list in Python's writing -> its parts; another text is a list of itself, "" of nothing.

    >>> listed("['a', 'b']"), listed("a"), listed("")
    (['a', 'b'], ['a'], [])
    """
    if len(cell) > 1 and cell[0] == "[" and cell[-1] == "]":
        try:
            found = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [cell]
        if isinstance(found, list):
            return [str(part) for part in found]
    return [cell] if cell else []
