"""How fast a folder becomes searchable: `omma.build_index` against sentence-transformers' vectors of the same files.

    python bench/index_speed.py [--pictures 300] [--pages 60] [--seconds 60]

The eye is a ViT-B/32 of CLIP's size with random weights, saved once and opened by both. The peer is SentenceTransformer
.encode of the opened files; omma also hashes the files, keeps thumbnails, tells near duplicates and writes the index.
Both in fp32, then each as it comes: omma then computes in bf16 where the processor is fast in it. CPU seconds from the
first file to the last vector, one thread, a process each, in turns, the best of --turns. Vectors are compared by their
cosine. Then pages of PDF a CPU-second, and seconds of video a CPU-second, with and without the eye.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WAYS = ("peer", "fp32", "auto")
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


def measure(way: str, work: Path, folder: Path) -> dict[str, Any]:
    """CPU seconds from files to vectors, or for `read` from a PDF or a video to pictures and text."""
    files = sorted(folder.iterdir())
    if way == "read":
        from omma.retrieval.process import MediaProcess

        before = cpu()
        with MediaProcess() as media:
            items = sum(len(list(media.items(path, "pdf" if path.suffix == ".pdf" else "video"))) for path in files)
        return {"cpu": cpu() - before, "items": items}
    if way == "peer":
        from sentence_transformers import SentenceTransformer

        model: Any = SentenceTransformer(str(work / "eye"), device="cpu")
        model.encode([Image.open(files[0])])
        before = cpu()
        vectors = model.encode([Image.open(path) for path in files])
        spent = cpu() - before
    else:
        import omma

        eye: Any = omma.load_encoder(work / "eye", device="cpu", precision=way)
        eye.encode_image([Image.open(files[0]).convert("RGB")] if files[0].suffix == ".jpg" else [])
        before = cpu()
        with omma.build_index(folder, work / f"{way}.db", encoder=eye) as index:
            spent = cpu() - before
            rows = index.store.rows("SELECT item.id FROM item JOIN file ON file.id = file ORDER BY path, part")
            vectors = index.store.get(eye.fingerprint, [row[0] for row in rows])
        for rest in work.glob(f"{way}.db*"):
            rest.unlink()
    np.save(work / f"{way}.npy", vectors)
    return {"cpu": spent, "items": len(vectors)}


def run(way: str, work: Path, folder: Path) -> dict[str, Any]:
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--measure", way, str(work), str(folder)]
    done = subprocess.run(command, env=env | {"HF_HUB_OFFLINE": "1"}, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--measure", nargs=3)
    args = parser.parse_args()
    if args.measure:
        way, work, folder = args.measure
        print(json.dumps(measure(way, Path(work), Path(folder))))
        return
    claims = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folders = {name: work / name for name in ("pictures", "pages", "videos")}
        for folder in folders.values():
            folder.mkdir()
        write_model(work / "eye")
        for number in range(args.pictures):
            draw(number).save(folders["pictures"] / f"{number:05d}.jpg", quality=90)
        write_pages(folders["pages"] / "report.pdf", args.pages)
        write_video(folders["videos"] / "walk.mp4", args.seconds)

        turns = [{way: run(way, work, folders["pictures"])["cpu"] for way in WAYS} for _ in range(args.turns)]
        spent = {way: min(turn[way] for turn in turns) for way in WAYS}
        known = np.load(work / "peer.npy")
        known /= np.linalg.norm(known, axis=1, keepdims=True)
        for way in WAYS:
            print(f"{way:5} {spent[way]:7.2f} CPU s  {args.pictures / spent[way]:6.1f} pictures a CPU-second")
        for way, goal in GOALS.items():
            ratio, least = spent["peer"] / spent[way], float((np.load(work / f"{way}.npy") * known).sum(axis=1).min())
            claims += [(f"indexing pictures, {way}: times sentence-transformers' speed", ratio, goal),
                       (f"indexing pictures, {way}: least cosine of a vector with its", least, 0.999)]
        for name, much, what in (("pages", args.pages, "pages"), ("videos", args.seconds, "seconds of video")):
            read, whole = run("read", work, folders[name]), run("auto", work, folders[name])
            print(f"{name}: {read['items']} items; {much / read['cpu']:.1f} {what} a CPU-second read, "
                  f"{much / whole['cpu']:.1f} with vectors, words and thumbnails")
    for name, value, goal in claims:
        print(json.dumps({"name": name, "value": round(value, 5), "goal": goal, "ok": value >= goal}))


if __name__ == "__main__":
    main()
