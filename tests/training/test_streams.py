"""Batches of a stream are a function of (seed, step), whoever makes them; nothing is left behind; bad data is told."""

import contextlib
import dataclasses
import io
import os
import signal
import subprocess
import sys
import tarfile
import tracemalloc
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from omma.models.preprocess import Processor, train_wordpiece
from omma.table import Table
from omma.training.augment import crop_box
from omma.training.objectives import belongs_together
from omma.training.resizing import square
from omma.training.samples import TRIES, Order, StreamConfig
from omma.training.streams import ContrastiveStream

WORDS = ["red", "green", "blue", "cup", "fish", "bird", "left", "right", "of", "a"]


def encoded(number: int, size: tuple[int, int] = (30, 20), format: str = "PNG") -> bytes:
    coarse = np.random.default_rng(number).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(out, format)
    return out.getvalue()


def caption(number: int) -> str:
    return " ".join(np.random.default_rng(number).choice(WORDS, 4))


def write_shards(folder: Path, count: int = 3, each: int = 13, bad: tuple[int, ...] = (), suffix: str = "png") -> Path:
    folder.mkdir(exist_ok=True)
    for shard in range(count):
        with tarfile.open(folder / f"{shard:02d}.tar", "w") as tar:
            for number in range(each * shard, each * shard + each):
                data = b"no picture" if number in bad else encoded(number)
                for ending, content in ((suffix, data), ("txt", caption(number).encode())):
                    member = tarfile.TarInfo(f"{number:04d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor(train_wordpiece(WORDS, 60), image_size=16, max_text_len=8)


def stream(data, processor, *, batch_size=12, seed=5, part=(0, 1), **config) -> ContrastiveStream:
    return ContrastiveStream(data, processor, StreamConfig(**config), batch_size=batch_size, seed=seed, part=part)


def same(a, b) -> bool:
    tensors = [name for name, value in vars(a).items() if isinstance(value, torch.Tensor)]
    return a.ids == b.ids and a.skipped == b.skipped and all(torch.equal(getattr(a, t), getattr(b, t)) for t in tensors)


# ---- order


@pytest.mark.parametrize("window", [1, 7, 40, 1000])
def test_an_epoch_is_a_permutation_whose_any_part_can_be_asked_for_alone(window):
    blocks = np.array([0, 10, 13, 40, 41, 60, 90])
    order = Order(blocks, 100, window, seed=3)
    epochs = [order.numbers(epoch, 0, 100) for epoch in range(3)]
    for numbers in epochs:
        assert sorted(numbers.tolist()) == list(range(100))
    assert epochs[0].tolist() != epochs[1].tolist() != epochs[2].tolist()
    fresh = Order(blocks, 100, window, seed=3)
    assert np.array_equal(fresh.numbers(1, 37, 62), epochs[1][37:62])
    assert np.array_equal(fresh.numbers(0, 99, 100), epochs[0][99:])
    assert Order(blocks, 100, window, seed=4).numbers(0, 0, 100).tolist() != epochs[0].tolist()


def test_a_window_mixes_whole_blocks_and_touches_no_other():
    blocks = np.arange(0, 1000, 10)
    numbers = Order(blocks, 1000, window=50, seed=0).numbers(0, 0, 1000)
    first = {int(n) // 10 for n in numbers[:50]}
    assert len(first) == 5
    assert not first & {int(n) // 10 for n in numbers[50:]}
    assert numbers[:50].tolist() != sorted(numbers[:50].tolist())
    followers = np.diff(numbers) == 1  # of a random order one in a thousand
    assert followers.mean() < 0.05


# ---- batches


def test_a_batch_is_a_function_of_seed_and_step(tmp_path, processor):
    data = write_shards(tmp_path / "s")
    made = stream(data, processor)
    assert (made.steps_per_epoch, len(made)) == (3, 39)
    late = stream(data, processor)[7]  # without the batches before it
    for step in range(8):
        last = made[step]
    assert same(last, late)
    assert last.step == 7
    assert not same(stream(data, processor, seed=6)[7], late)
    shown = [i for step in range(3) for i in made[step].ids]
    assert len(set(shown)) == 36  # an epoch shows none twice


def test_parts_are_the_rows_of_the_whole_batch_for_any_number_of_processes(tmp_path, processor):
    data = write_shards(tmp_path / "s", bad=(3, 17))
    whole = stream(data, processor)[4]
    for n in (2, 3, 12):
        parts = [stream(data, processor, part=(i, n))[4] for i in range(n)]
        assert [i for part in parts for i in part.ids] == whole.ids
        for name in ("pixels", "keys"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
        assert sum(sum(part.skipped.values()) for part in parts) == sum(whole.skipped.values())
    with pytest.raises(ValueError, match="batch_size 12 does not divide into 5 equal parts"):
        stream(data, processor, part=(0, 5))


def test_pixels_and_tokens_are_those_of_the_named_picture_and_one_of_its_captions(tmp_path, processor):
    batch = stream(write_shards(tmp_path / "s"), processor, crop_scale=1.0, jitter=0.0)[1]
    for row, name in enumerate(batch.ids):
        number = int(name.rpartition("/")[2])
        picture = Image.open(io.BytesIO(encoded(number)))
        assert np.array_equal(batch.pixels[row].numpy(), processor.pixels(picture))
        assert batch.input_ids[row][batch.attention_mask[row] == 1].tolist() == processor.text_ids([caption(number)])[0]
    moved = stream(tmp_path / "s", processor, flip=True)
    assert not torch.equal(moved[1].pixels, batch.pixels)
    assert moved[1].ids == batch.ids


def test_bad_samples_are_counted_and_others_stand_for_them(tmp_path, processor):
    data = write_shards(tmp_path / "s", bad=tuple(range(0, 39, 3)))
    batches = [stream(data, processor)[step] for step in range(3)]
    for batch in batches:
        assert len(batch.ids) == 12
        assert not {int(name.rpartition("/")[2]) % 3 for name in batch.ids} & {0}
    met = sum(batch.skipped["not_an_image"] for batch in batches)
    assert met >= 10  # 36 of 39 places meet 10 of the 13 bad ones at least; some draws in their stead are bad as well
    nothing = stream(write_shards(tmp_path / "all", bad=tuple(range(39))), processor)
    with pytest.raises(ValueError, match=rf"{TRIES} samples in a row can't be used, the last is 0\d.tar/00\d\d \(not"):
        nothing[0]


def test_too_few_samples_say_how_many_there_are_and_why(tmp_path, processor):
    table = Table.create(tmp_path / "t")
    table.append([{"id": "a", "bytes": encoded(1), "captions": [{"text": "a cup", "language": "en"}]},
                  {"id": "b", "bytes": encoded(2)}, {"id": "c", "bytes": b"x", "status": "not_an_image"}])  # fmt: skip
    reasons = r"has 1 usable pictures with captions \(1 not_an_image, 1 no caption\); a batch takes 12. Lower"
    with pytest.raises(ValueError, match=reasons):
        stream(table, processor)


def make_table(folder: Path, n: int = 60) -> Table:
    table = Table.create(folder, extra=pa.schema([("false", pa.list_(pa.string()))]), chunk_rows=16)
    rows = []
    for i in range(n):
        said = [{"text": text, "language": "en"} for text in (caption(i), "a " * 20)]
        wrong = [f"{word} cup" for word in WORDS[: i % 7]]
        rows.append({"id": f"p{i}", "bytes": encoded(i // 2), "captions": said, "false": wrong})
    table.append(rows)
    return table


def test_negatives_come_as_a_block_with_a_mask_of_those_there_are(tmp_path, processor):
    table = make_table(tmp_path / "t")
    batch = stream(table, processor, negatives="false", max_negatives=4)[0]
    counts = [int(name[1:]) % 7 for name in batch.ids]
    assert batch.negative_ids.shape == batch.negative_mask.shape
    assert batch.negative_ids.shape[:2] == (12, 4)
    assert batch.negative_rows.sum(dim=1).tolist() == [min(n, 4) for n in counts]
    row = max(range(12), key=lambda i: counts[i])
    told = {tuple(ids) for ids in processor.text_ids([f"{w} cup" for w in WORDS[: counts[row]]])}
    shown = {tuple(i[m == 1].tolist()) for i, m in zip(batch.negative_ids[row], batch.negative_mask[row], strict=True)}
    assert shown <= told
    assert stream(table, processor)[0].negative_ids is None


def test_keys_are_equal_for_equal_pictures_and_for_equal_texts_alone(tmp_path, processor):
    made = stream(make_table(tmp_path / "t"), processor, batch_size=60)
    batch = made[0]
    together = belongs_together(batch.keys, batch.keys)
    for i, a in enumerate(batch.ids):
        for j, b in enumerate(batch.ids):
            twins = int(a[1:]) // 2 == int(b[1:]) // 2
            assert together[i, j] == (twins or torch.equal(batch.input_ids[i], batch.input_ids[j]))
    assert batch.keys.dtype == torch.int64
    assert batch.cut == int((batch.attention_mask.sum(dim=1) == 8).sum())  # the other captions have six tokens
    assert batch.cut > 10


def test_a_draft_is_close_to_the_whole_picture_and_reads_no_more_than_crops_need(tmp_path, processor):
    table = Table.create(tmp_path / "t")
    table.append([{"id": f"p{i}", "bytes": encoded(i, (160, 160), "JPEG"),
                   "captions": [{"text": "a", "language": "en"}]} for i in range(12)])  # fmt: skip
    whole, draft = (stream(table, processor, draft=draft, jitter=0.0)[0] for draft in (False, True))
    assert whole.ids == draft.ids
    difference = (whole.pixels.float() - draft.pixels.float()).abs()
    assert 0 < difference.mean() < 3
    assert stream(table, processor, draft=True, crop_scale=0.25).maker.target == 32


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [None, (10.2, 20.7, 100.1, 61.9)])
def test_torch_scales_as_pillow_does_to_a_level(filter, box):
    noise = np.random.default_rng(0).integers(0, 255, (75, 120, 3), dtype=np.uint8)
    for image in (Image.fromarray(noise), Image.fromarray(noise[..., 0])):
        cut = image.convert("RGB").crop(tuple(round(edge) for edge in box or (0, 0, 120, 75)))
        theirs = np.asarray(cut.resize((32, 32), Image.Resampling[filter.upper()])).transpose(2, 0, 1)
        difference = np.abs(square(image, 32, filter, box).astype(int) - theirs)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.02


def test_a_crop_of_less_than_a_pixel_is_one(processor):
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    for box, pixel in (((1.6, 1.6, 1.9, 1.9), (9, 10, 11)), ((0.1, 1.1, 0.4, 1.3), (6, 7, 8))):
        found = square(image, 4, "bicubic", box)
        assert np.array_equal(found, np.broadcast_to(np.reshape(pixel, (3, 1, 1)), (3, 4, 4)))


def test_a_stream_scaled_by_torch_shows_the_same_pictures(tmp_path, processor):
    data = write_shards(tmp_path / "s")
    whole = {"crop_scale": 1.0, "jitter": 0.0}
    ours, theirs = (stream(data, processor, resize=resize, **whole)[1] for resize in ("torch", "pillow"))
    assert ours.ids == theirs.ids
    assert (ours.pixels.int() - theirs.pixels.int()).abs().max() <= 1
    middle = dataclasses.replace(processor, shortest_side=16)  # without a crop the middle is cut out, by Pillow
    ours, theirs = (stream(data, middle, resize=resize, **whole)[1] for resize in ("torch", "pillow"))
    assert torch.equal(ours.pixels, theirs.pixels)
    with pytest.raises(ValueError, match="torch does not scale by lanczos, it has bilinear, bicubic; leave"):
        stream(data, dataclasses.replace(processor, resample="lanczos"), resize="torch")[0]


def test_a_draft_has_all_the_pixels_that_are_left_of_a_picture(tmp_path, processor):
    """At half its size a picture of 45 pixels is enough for 16, and for a model that first makes 24 of them is not."""
    out = tmp_path / "a.tar"
    with tarfile.open(out, "w") as tar:
        for number in range(2):
            for ending, content in (("jpg", encoded(number, (45, 45), "JPEG")), ("txt", b"a cup")):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    for side, same_pixels in ((None, False), (16, False), (24, True)):
        made = dataclasses.replace(processor, shortest_side=side)
        draft, whole = (stream(out, made, batch_size=2, draft=d, crop_scale=1.0, jitter=0.0)[0] for d in (True, False))
        assert torch.equal(draft.pixels, whole.pixels) == same_pixels, side


def test_settings_outside_of_their_range_are_refused():
    for setting in ({"crop_scale": 0.0}, {"jitter": -0.1}, {"jitter": 1.5}, {"window": -1}, {"max_negatives": 0}):
        with pytest.raises(ValueError, match=rf"{next(iter(setting))}=.*: give "):
            StreamConfig(**setting)


def test_crops_for_a_model_that_sees_squares_are_squares(processor):
    image = Image.new("RGB", (60, 20))
    config = StreamConfig(crop_scale=0.5)
    boxes = [crop_box(image, config, np.random.default_rng(i), square=True)[0] for i in range(50)]
    for left, top, right, bottom in boxes:
        assert right - left == pytest.approx(bottom - top)
        assert -1e-9 <= left <= right <= 60 + 1e-9
        assert -1e-9 <= top <= bottom <= 20 + 1e-9
    assert min(right - left for left, _, right, _ in boxes) < 16
    assert max(left for left, *_ in boxes) > 30  # anywhere along the long side


def test_the_pictures_of_the_data_are_never_held(tmp_path, processor):
    pixels = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "BMP")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(300):
            for ending, content in (("bmp", out.getvalue()), ("txt", b"a cup")):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    size = (tmp_path / "a.tar").stat().st_size
    tracemalloc.start()
    try:
        made = stream(tmp_path / "a.tar", processor)
        for step in range(made.steps_per_epoch):
            made[step]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 8 << 20
    assert peak < 1 << 20


# ---- worker processes


def first_are(batches, alone) -> None:
    made = [next(batches) for _ in alone]
    assert [batch.step for batch in made] == [batch.step for batch in alone]
    assert all(same(a, b) for a, b in zip(alone, made, strict=True))


def test_workers_make_the_same_batches_until_a_shard_is_cut_which_is_told(tmp_path, processor):
    data = write_shards(tmp_path / "s", bad=(3, 17))
    source = stream(data, processor)
    alone = [source[step] for step in range(2, 9)]
    with source.prefetch(2, 1000, workers=2) as batches:
        made = iter(batches)
        first_are(made, alone)
        assert batches.waited > 0
        assert batches.skipped.total() == sum(sum(batch.skipped.values()) for batch in alone)
        os.truncate(data / "01.tar", 1000)
        with pytest.raises(ValueError, match=r"shard .*01\.tar ends \d+ bytes early: it was cut"):
            list(made)
    assert not active_children()
    assert not list(source.prefetch(5, 5, workers=2))


def test_workers_make_the_same_batches_of_a_table_until_one_is_killed_which_is_told(tmp_path, processor):
    source = stream(make_table(tmp_path / "t"), processor, negatives="false", window=20)
    alone = [source[step] for step in range(2, 9)]
    with source.prefetch(2, 5, workers=0) as batches:
        first_are(iter(batches), alone[:3])
        assert batches.cut == sum(batch.cut for batch in alone[:3])
    with source.prefetch(2, 1000, workers=2) as batches:
        made = iter(batches)
        first_are(made, alone)
        pid, memory = batches.workers.processes[1].pid, batches.workers.memory.name
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=rf"worker process 1 of 2 \(pid {pid}\).*was killed by SIGKILL"):
            list(made)
    assert not active_children()
    assert not (Path("/dev/shm") / memory).exists()


SCRIPT = """
import signal
import sys
from omma.models.preprocess import Processor, train_wordpiece
from omma.training.streams import ContrastiveStream, StreamConfig

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests behind it has SIGINT ignored
processor = Processor(train_wordpiece(["a"], 60), image_size=16, max_text_len=8)
source = ContrastiveStream(sys.argv[1], processor, StreamConfig(), batch_size=12, seed=0)
for batch in source.prefetch(0, 10**6, workers=1):
    if batch.step == 3:
        print("ready", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="there Ctrl-C is no signal")
def test_ctrl_c_ends_a_script_without_a_guard_and_leaves_nothing(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    before = set(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else set()
    run = subprocess.Popen([sys.executable, script, write_shards(tmp_path / "s")], stdout=subprocess.PIPE, text=True,
                           stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
    try:
        assert run.stdout.readline() == "ready\n"
        os.killpg(run.pid, signal.SIGINT)
        _, errors = run.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing is left of it but after a failure
            os.killpg(run.pid, signal.SIGKILL)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1, errors  # the workers say nothing
    assert "leaked" not in errors
    if before or Path("/dev/shm").is_dir():
        assert not {path for path in set(Path("/dev/shm").iterdir()) - before if path.name.startswith("psm_")}


def test_a_worker_starts_without_torch():
    code = "import sys, omma.training.workers; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_too_little_shared_memory_is_told_before_anything_starts(tmp_path, processor, monkeypatch):
    from omma.training import workers

    monkeypatch.setattr(workers, "SHARED", tmp_path)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    made = stream(write_shards(tmp_path / "s"), processor)
    with pytest.raises(OSError, match="shared memory are needed for 3 batches of 12 pictures"), made.prefetch(0, 9, 1):
        pass
