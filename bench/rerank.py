"""What a second look costs and what it is worth: CPU milliseconds of a search by words without it and with it, and how
often the right picture comes first by the cosine, by the fusion head's log-odds, and by their sum, which omma uses.

    omma scenes TEST --pictures 1000 --pairs 0 --split-design fresh --split test
    python bench/rerank.py vlmo-nano TEST/pictures
    omma ingest noto.tar NOTO --captions text --field skin_tone
    python bench/rerank.py vlmo-nano NOTO --language en --where "skin_tone is None"

A query is a picture's longest caption, in one language if so asked. Each picture's vector is computed once, before the
first query, and no part of the cost. One thread; CPU time, so that what else the machine does changes little.
"""

import argparse
import json
from collections.abc import Sequence
from time import process_time

import numpy as np
import torch

import omma
from omma.decode import open_picture
from omma.models.pretrained import Matcher
from omma.models.rerank import CANDIDATES, rerank_scores
from omma.table import View


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("table")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--language")
    parser.add_argument("--where")
    args = parser.parse_args()
    torch.set_num_threads(1)
    eye, table = omma.load_encoder(args.encoder, device="cpu"), omma.Table.open(args.table)
    omma.embed(table, eye)
    view = table.select(args.where) if args.where else table
    rows = view.read(["id", "captions"]).to_pylist()
    said = {row["id"]: [c["text"] for c in row["captions"] if args.language in (None, c["language"])] for row in rows}
    whole = {max(texts, key=len): name for name, texts in said.items() if texts}
    drawn = np.random.default_rng(0).permutation(len(whole))[: args.queries]
    queries = {query: name for i, (query, name) in enumerate(whole.items()) if i in set(drawn.tolist())}
    print(json.dumps({"first by, of": len(queries), **worth(view, eye, queries)}), flush=True)
    some = list(queries)[:40]
    ms = {rerank: cost(view, eye, some, rerank) for rerank in (0, CANDIDATES)}
    found = {
        "name": f"a search by words among {len(rows)} pictures, {args.encoder}, one thread",
        "cpu_ms_per_query": round(ms[0], 2),
        f"with_rerank_{CANDIDATES}": round(ms[CANDIDATES], 2),
        "cpu_ms_per_pair": round((ms[CANDIDATES] - ms[0]) / CANDIDATES, 3),
        "ratio": round(ms[CANDIDATES] / ms[0], 2),
    }
    print(json.dumps(found))


def worth(table: omma.Table | View, eye: Matcher, queries: dict[str, str]) -> dict[str, float]:
    """The share of queries whose own picture comes first, by each score."""
    first: dict[str, int] = dict.fromkeys(("cosine", "log-odds", "sum"), 0)
    for query, own in queries.items():
        hits = omma.search(table, query, encoder=eye, k=CANDIDATES)
        images = [image for hit in hits if (image := open_picture(hit.row, table.uri).image)]
        cosines, matched = np.array([hit.score for hit in hits]), eye.match(images, [query] * len(hits))
        scores = {"cosine": cosines, "log-odds": matched, "sum": rerank_scores(eye, matched, cosines)}
        for name, values in scores.items():
            first[name] += hits[int(np.argmax(values))].id == own
    return {name: round(count / len(queries), 3) for name, count in first.items()}


def cost(table: omma.Table | View, eye: omma.Encoder, queries: Sequence[str], rerank: int) -> float:
    """CPU milliseconds of a query: the least of three rounds over all of them."""
    least = float("inf")
    for _ in range(3):
        began = process_time()
        for query in queries:
            omma.search(table, query, encoder=eye, rerank=rerank)
        least = min(least, process_time() - began)
    return 1000 * least / len(queries)


if __name__ == "__main__":
    main()
