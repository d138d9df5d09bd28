"""What a second look costs: CPU milliseconds of a search by words without it and with it, and of each pair it looks at.

    omma scenes TEST --pictures 1000 --pairs 0 --split-design fresh --split test
    python bench/rerank.py vlmo-nano TEST/pictures

Each picture's vector is computed once, before the first query, and is part of neither number. One thread; CPU time, so
that what else the machine does changes little.
"""

import argparse
import json
from time import process_time

import torch

import omma
from omma.models.rerank import CANDIDATES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("table")
    parser.add_argument("--queries", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    eye, table = omma.load_encoder(args.encoder, device="cpu"), omma.Table.open(args.table)
    omma.embed(table, eye)
    rows = table.read(["captions"]).to_pylist()[: args.queries]
    queries = [max((caption["text"] for caption in row["captions"]), key=len) for row in rows]
    ms = {rerank: cost(table, eye, queries, rerank) for rerank in (0, CANDIDATES)}
    more = ms[CANDIDATES] - ms[0]
    found = {
        "name": f"a search by words among {table.num_rows} pictures, {args.encoder}, one thread",
        "cpu_ms_per_query": round(ms[0], 2),
        f"with_rerank_{CANDIDATES}": round(ms[CANDIDATES], 2),
        "pairs_per_query": CANDIDATES,
        "cpu_ms_per_pair": round(more / CANDIDATES, 3),
        "ratio": round(ms[CANDIDATES] / ms[0], 2),
    }
    print(json.dumps(found))


def cost(table: omma.Table, eye: omma.Encoder, queries: list[str], rerank: int) -> float:
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
