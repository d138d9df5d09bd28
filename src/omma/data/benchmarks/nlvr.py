"""NLVR: a sentence about a picture of three boxes, true or false, in six orders of the boxes (Suhr et al. 2017).

Released: dev.json, test.json, hidden.json, an object a line (identifier, sentence, label, directory, structured_rep),
beside images/<directory>/<split>-<identifier>-<order>.png with orders 0 to 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omma.data.benchmarks.files import Asked, column, json_list

VERSIONS = {
    "0d312c3d7309393c0e36d286c70b884fb276819699e9f8f2bcea2854ad46537b": "released, dev",
    "9a337ac016455eebe8aef70a6e94977dbcd9e75aec56f0fb09477a9c1038528d": "released, test",
    "d54d7060ea8050fa477fe988d8584af6344b99449648ceeb39b4af8b55b20622": "released, hidden",
}
ORDERS = 6


def nlvr(asked: Asked) -> Iterator[dict[str, Any]]:
    """A row a picture: an example's six orders. The group is the sentence's set, the number before the hyphen."""
    for path in asked.files("dev.json", "test.json", "hidden.json", "*.json"):
        asked.notes.file(path, VERSIONS)
        asked.look_in("images")
        for number, entry in enumerate(json_list(path), 1):
            if not isinstance(entry, dict):
                raise ValueError(f"{path}, line {number} is no object: {str(entry)[:80]}")
            name = str(column(entry, path, "identifier"))
            label = str(column(entry, path, "label")).lower()
            for order in range(ORDERS):
                stem = f"{path.stem}-{name}-{order}"
                folder = f"{entry['directory']}/" if "directory" in entry else ""
                yield {
                    "id": stem,
                    "task": "nlvr",
                    "pictures": [f"{folder}{stem}.png"],
                    "prompt": str(column(entry, path, "sentence")),
                    "options": ["true", "false"],
                    "answer": label,
                    "group": name.partition("-")[0],
                    "split": path.stem,
                    "identifier": name,
                }
