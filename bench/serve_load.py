"""`omma serve` under load: 32 clients for a minute on loopback; every answer is checked, and memory at both ends.

    python bench/serve_load.py [--seconds 60] [--clients 32] [--waiting 64]

Each client searches with words of its own, over a new connection every time, in what 500 drawn pictures were indexed
to. An answer counts when it is the one that `Index.search` gives here. With --waiting below the clients, some are told
to come again (503 with Retry-After), which they do at once. The clients share the machine with the server.
"""

import argparse
import collections
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PICTURES = 500


def filled(folder: Path) -> dict[str, list[int]]:
    """An index in folder, and the ids that a search finds for each client's words."""
    import omma

    options = [folder / "scenes", "--pictures", str(PICTURES), "--pairs", "0"]
    subprocess.run([sys.executable, "-m", "omma.cli", "scenes", *options], check=True, stdout=subprocess.DEVNULL)
    pictures = folder / "Pictures"
    pictures.mkdir()
    words = []
    for n, row in enumerate(omma.Table.open(folder / "scenes" / "pictures").read(["bytes", "captions"]).to_pylist()):
        (pictures / f"{n}.png").write_bytes(row["bytes"])
        words.append(row["captions"][0]["text"])
    with omma.build_index(pictures, folder / "index.db") as index:
        return {text: [int(hit.id) for hit in index.search(text, k=10)] for text in words[:64]}


def memory(process: int) -> float:
    """Resident, MB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 1e6


def client(port: int, words: str, right: list[int], end: float, counts: collections.Counter, times: list) -> None:
    while time.time() < end:
        start = time.perf_counter()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/search", json.dumps({"query": words}), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            said = json.loads(reply.read())
            connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            counts[f"lost: {type(error).__name__}"] += 1
            continue
        if reply.status == 200:
            times.append(time.perf_counter() - start)
            counts["right" if [hit["id"] for hit in said["hits"]] == right else "wrong"] += 1
        else:
            counts["503, come again" if reply.status == 503 and reply.headers["Retry-After"] else reply.status] += 1


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seconds", type=float, default=60)
    asked.add_argument("--clients", type=int, default=32)
    asked.add_argument("--waiting", type=int, default=64)
    args = asked.parse_args()
    with tempfile.TemporaryDirectory() as place:
        right = filled(Path(place))
        command = [sys.executable, "-m", "omma.cli", "serve", "--index", str(Path(place) / "index.db"), "--port", "0",
                   "--waiting", str(args.waiting)]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            found = re.search(r"127\.0\.0\.1:([0-9]+)/", server.stdout.readline())
            assert found, "the server said something else"
            counts, times = collections.Counter(), []
            end = time.time() + args.seconds
            threads = [threading.Thread(target=client, args=(int(found[1]), *list(right.items())[n % len(right)], end,
                                                             counts, times)) for n in range(args.clients)]  # fmt: skip
            for thread in threads:
                thread.start()
            time.sleep(args.seconds / 4)
            early = memory(server.pid)
            for thread in threads:
                thread.join()
            late = memory(server.pid)
            server.terminate()
            ended = server.wait(60)
    times.sort()
    p50, p95 = (1000 * times[int(share * len(times))] for share in (0.5, 0.95))
    bad = sum(count for what, count in counts.items() if what not in ("right", "503, come again"))
    print(f"{args.clients} clients, {args.seconds:g} s: {dict(counts)}; "
          f"{counts['right'] / args.seconds:.0f} answers/s, p50 {p50:.0f} ms, p95 {p95:.0f} ms")
    print(f"{early:.0f} MB after a quarter, {late:.0f} MB at the end; exit {ended}")
    for name, value, goal, ok in (("answers lost, wrong or refused without a documented 503", bad, 0, bad == 0),
                                  ("memory at the end / after a quarter", round(late / early, 3), 1.05,
                                   late <= 1.05 * early)):  # fmt: skip
        print(json.dumps({"name": name, "value": value, "goal": goal, "ok": ok}))


if __name__ == "__main__":
    main()
