"""How fast a folder becomes searchable: `omma.build_index` against sentence-transformers' vectors of the same files.

    python bench/index_speed.py [--pictures 320] [--pages 60] [--seconds 60]

The eye is a ViT-B/32 of CLIP's size with random weights, saved once and opened by both. The peer is SentenceTransformer
.encode of the opened files; omma also hashes the files, keeps thumbnails, tells near duplicates and writes the index.
Both in fp32, then each as it comes: omma then computes in bf16 where the processor is fast in it. CPU seconds from the
first file to the last vector, one thread, a batch of 32 each in turn in one process; the ratio is the median over the
batches, so that what else runs meets all alike. Vectors are compared by their cosine. Then pages of PDF a CPU-second,
and seconds of video a CPU-second, with and without the eye.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import omma

BATCH = 32
GOALS = {"fp32": 1.1, "auto": 1.3}
WORDS = ["the", "yearly", "numbers", "of", "lamps", "kettles", "that", "we", "sold", "on", "a", "table", "beside",
         "green", "birds"]  # fmt: skip


def draw(number: int) -> Image.Image:
    """Shapes of random colours under noise, about 500 x 375: compresses like a photograph (some 70 kB)."""
    rng = np.random.default_rng(number)
    size = int(rng.integers(460, 541)), int(rng.integers(345, 406))
    coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = rng.normal(0, 8, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def write_model(folder: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    pieces = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += [f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz"]
    CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[], model_max_length=77).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    text = {"vocab_size": len(pieces), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "num_hidden_layers": 1}
    CLIPModel(CLIPConfig(text_config=text)).save_pretrained(folder)        # no text is embedded here


def write_pages(path: Path, pages: int) -> None:
    """A4 pages of 400 words each."""
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    rng = np.random.default_rng(0)
    with PdfPages(path) as out:
        for number in range(pages):
            page = Figure(figsize=(8.27, 11.69))
            for line in range(40):
                said = " ".join(rng.choice(WORDS, 10))
                page.text(0.08, 0.95 - 0.022 * line, f"{number} {said}", size=9)
            out.savefig(page)


def write_video(path: Path, seconds: int) -> None:
    """640 x 360 at 30 frames a second, H.264, a shot of four seconds after the other, each moving a little."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for frame in range(seconds * 30):
            if frame % 120 == 0:
                still = np.asarray(draw(10_000 + frame).resize((700, 400)))
            at = frame % 40
            pixels = np.ascontiguousarray(still[at : at + 360, at : at + 640])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())


def cpu() -> float:
    """CPU seconds of this process and of those it started that have ended."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def compare(work: Path, folders: list[Path]) -> dict[str, Any]:
    """CPU seconds of each way for each folder, and the least cosine of omma's vectors with the peer's."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model: Any = SentenceTransformer(str(work / "eye"), device="cpu")
    eyes = {way: omma.load_encoder(work / "eye", device="cpu", precision=way) for way in GOALS}
    spent: dict[str, list[float]] = {way: [] for way in ("peer", *GOALS)}
    least = dict.fromkeys(GOALS, 1.0)
    for number, folder in enumerate([folders[0], *folders]):        # the first once more: what is set up only once
        files = sorted(folder.iterdir())
        before = time.process_time()
        known = model.encode([Image.open(path) for path in files])
        spent["peer"].append(time.process_time() - before)
        known /= np.linalg.norm(known, axis=1, keepdims=True)
        for way, eye in eyes.items():
            before = time.process_time()
            with omma.build_index(folder, work / f"{way}{number}.db", encoder=eye) as index:
                spent[way].append(time.process_time() - before)
                rows = index.store.rows("SELECT item.id FROM item JOIN file ON file.id = file ORDER BY path")
                vectors = index.store.get(eye.fingerprint, [row[0] for row in rows])
            least[way] = min(least[way], float((vectors * known).sum(axis=1).min()))
    return {"spent": {way: found[1:] for way, found in spent.items()}, "least": least}


def measure(way: str, work: Path, folder: Path) -> dict[str, Any]:
    """CPU seconds from a PDF or a video to pictures and text (read), or to all that an index keeps of it (index)."""
    if way == "read":
        from omma.retrieval.process import MediaProcess

        before = cpu()
        with MediaProcess() as media:
            items = sum(len(list(media.items(path, "pdf" if path.suffix == ".pdf" else "video")))
                        for path in sorted(folder.iterdir()))  # fmt: skip
        return {"cpu": cpu() - before, "items": items}
    eye: Any = omma.load_encoder(work / "eye", device="cpu", precision="auto")
    eye.encode_image([draw(0)])
    before = cpu()
    with omma.build_index(folder, work / f"{folder.name}.db", encoder=eye) as index:
        return {"cpu": cpu() - before, "items": index.store.count(eye.fingerprint)}


def run(way: str, work: Path, folder: Path) -> dict[str, Any]:
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--measure", way, str(work), str(folder)]
    done = subprocess.run(command, env=env | {"HF_HUB_OFFLINE": "1"}, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=320)
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--only", choices=("pictures", "media"))
    parser.add_argument("--measure", nargs=3)
    args = parser.parse_args()
    if args.measure:
        way, work, folder = args.measure[0], *map(Path, args.measure[1:])
        print(json.dumps(compare(work, sorted(folder.iterdir())) if way == "compare" else measure(way, work, folder)))
        return
    claims = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_model(work / "eye")
        if args.only != "media":
            for number in range(args.pictures):
                place = work / "pictures" / f"{number // BATCH:03d}"
                place.mkdir(parents=True, exist_ok=True)
                draw(number).save(place / f"{number:05d}.jpg", quality=90)
            found = run("compare", work, work / "pictures")
            peer = np.array(found["spent"]["peer"])
            for way, spent in found["spent"].items():
                print(f"{way:5} {np.median(spent):7.2f} CPU s for {BATCH} pictures (median of {len(spent)}), least "
                      f"{min(spent):.2f}; {BATCH / np.median(spent):6.1f} pictures a CPU-second")  # fmt: skip
            for way, goal in GOALS.items():
                ratios = peer / np.array(found["spent"][way])
                print(f"peer / {way}: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
                claims += [(f"indexing pictures, {way}: times sentence-transformers' speed", np.median(ratios), goal),
                           (f"indexing pictures, {way}: least cosine with its vectors", found["least"][way], 0.999)]
        if args.only != "pictures":
            (work / "pages").mkdir()
            (work / "videos").mkdir()
            write_pages(work / "pages" / "report.pdf", args.pages)
            write_video(work / "videos" / "walk.mp4", args.seconds)
            for name, much, what in (("pages", args.pages, "pages"), ("videos", args.seconds, "seconds of video")):
                read, whole = run("read", work, work / name), run("index", work, work / name)
                print(f"{name}: {read['items']} items; {much / read['cpu']:.1f} {what} a CPU-second read, "
                      f"{much / whole['cpu']:.1f} with vectors, words and thumbnails")
    for name, value, goal in claims:
        print(json.dumps({"name": name, "value": round(float(value), 5), "goal": goal, "ok": bool(value >= goal)}))


if __name__ == "__main__":
    main()
