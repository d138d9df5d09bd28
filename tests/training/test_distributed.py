"""Several processes train what one trains: the same losses, gradients and weights, from the same batches."""

import io
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from conftest import Stopped, stop_after
from gloo import on
from omma.models.preprocess import Processor
from omma.models.vlmo import VLMo
from omma.models.weights import read_tensors
from omma.table import Table
from omma.training import checkpoint as checkpoints
from omma.training.batches import Batches, DataConfig, decoded
from omma.training.config import TrainConfig
from omma.training.distributed import ALONE, FailedElsewhere, World, is_sharded, processes, whole
from omma.training.loop import NonFiniteLoss, train
from omma.training.losses import LossWeights
from omma.training.optim import EMA, parameter_groups
from omma.training.segment import UNLABELLED
from omma.training.setup import build, spread, training_set

CPU = torch.device("cpu")
ITC = LossWeights(itc=1.0)
ALL = LossWeights(mim=1.0, text_mlm=1.0, itc=1.0, itc_pair=1.0, itc_vl=0.5, itm=1.0, itm_pair=1.0, itm_relation=0.5,
                  mlm=0.25)  # fmt: skip


# ---- losses and gradients
@pytest.fixture
def run(tiny_run, coloured_table) -> TrainConfig:
    """A run in double precision whose table has minimal pairs beside single pictures, and captions twice."""
    rows = Table.open(coloured_table).read(["id", "bytes", "captions", "status"]).to_pylist()
    table = Table.create(coloured_table.parent / "pairs", "pictures", extra=pa.schema([("group", pa.string())]))
    for i, row in enumerate(rows):
        row["group"] = f"g{i // 2}" if i < 10 else None
        words = row["captions"][0]["text"] + " on the ground" * (i % 3 == 0) + f" of {i}" * (i < 10)
        row["captions"] = [{"text": words, "language": "en"}]
    table.append(rows)
    config = tiny_run(data=str(table.uri), batch_size=16, losses=ALL, fusion_share=0.5)
    model = replace(config.model, drop_path=0.0, text_dropout=0.0, itc_vl=True, pool="max", max_text_len=24)
    return replace(config, model=model)


def gradients(world: World, config: TrainConfig, weights: LossWeights = ALL, **options) -> dict[str, torch.Tensor]:
    """Of one step in double precision, by name; "loss.NAME": the whole batch's; None where nothing used a weight."""
    table = Table.open(config.data)
    model, processor, _ = build(config, table)
    model.double()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout2d):  # each process draws for its own rows
            part.p = 0.0
    batch = training_set(config, table, model, processor, world)[0]
    step = spread(model, config, world, CPU)
    pixels = processor.normalize(batch.pixels).double()
    options = {"fusion_share": config.fusion_share, "world": world, **options}
    losses = step(batch, pixels, weights, (0, 0), **options)
    torch.stack([weights.active()[name] * loss for name, loss in losses.items()]).sum().backward()
    found = {f"loss.{name}": world.mean(loss) for name, loss in losses.items()}
    return found | {name: whole(p.grad) for name, p in model.named_parameters()}


def assert_close(found: dict, wanted: dict, scale: float = 1.0, rtol: float = 1e-6) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name] is None) == (value is None), name
        if value is not None:
            error = (found[name] - scale * value).norm() / value.norm().clamp(min=1e-9)
            assert error < rtol, f"{name}: {error:.1e}"


def exchanged(world: World) -> dict[str, int]:
    """Elements that `fetch` sends, where every process asks for three of the four pictures that each holds."""
    pictures = torch.arange(4 * world.size).float().repeat_interleave(3 * 8 * 8).view(-1, 3, 8, 8)
    wanted = (torch.arange(3) * world.size + world.rank + 1) % (4 * world.size)
    sent, real = [], dist.all_to_all_single
    dist.all_to_all_single = lambda out, x, *sizes: sent.append(x.numel()) or real(out, x, *sizes)
    got = world.fetch(pictures[world.rows_of(4 * world.size)], wanted)
    dist.all_to_all_single = real
    assert torch.equal(got, pictures[wanted])
    return {"asked": sum(sent[:2]), "sent": sent[2]}


def left_sharded(world: World, config: TrainConfig) -> set[tuple[bool, bool]]:
    """Whether text experts and image experts are sharded while a pass over text runs through the former."""
    table, seen = Table.open(config.data), set()
    model, processor, _ = build(config, table)
    batch = training_set(config, table, model, processor, world)[0]
    step = spread(model, config, world, CPU)
    for block in model.blocks:
        text, image = (block.get_submodule(f"experts.{name}.fc1") for name in ("text", "image"))
        look = lambda *_, text=text, image=image: seen.add((is_sharded(text.weight), is_sharded(image.weight)))
        text.register_forward_pre_hook(look)
    step(batch, processor.normalize(batch.pixels), LossWeights(text_mlm=1.0), (0, 0), world=world, one_length=True)
    return seen


def all_gradients(config: TrainConfig) -> dict:
    with processes(CPU) as world:
        found = {
            "exchanged": exchanged(world),
            "every": gradients(world, config),
            "near": gradients(world, config, negatives_within=16 // world.size, trim=0.3),
            "published": gradients(world, config, ITC, contrast="published"),
        }
        if world.size == 2:
            found["local"] = gradients(world, config, ITC, contrast="local")
            sharded = replace(config, parallel="fsdp")
            found["sharded"] = gradients(world, sharded, one_length=True)
            found["left"] = left_sharded(world, sharded)
        return found


@pytest.mark.parametrize("size", [2, 4])
def test_losses_and_gradients_are_those_of_one_process(run, tmp_path, size):
    """Every objective at once: pairs, a share of fused rows, captions that occur twice, texts of many lengths."""
    every, itc = gradients(ALONE, run), gradients(ALONE, run, ITC)
    near = gradients(ALONE, run, negatives_within=16 // size, trim=0.3)
    assert all(every[f"loss.{name}"] > 0 for name in ALL.active())
    assert near["loss.itm"] != every["loss.itm"], "other negatives"
    outside = {name: itc[name] for name in ("loss.itc", "logit_scale")}
    backbone = {name: value for name, value in itc.items() if name not in outside}
    started = on(size, all_gradients, tmp_path / "out", run)
    # Three pictures for each process, where an all_gather would bring it all 4 * size; and a few numbers.
    assert sum(found["exchanged"]["sent"] for found in started) == 3 * size * (3 * 8 * 8)
    assert sum(found["exchanged"]["asked"] for found in started) == size * (size + 3)
    for found in started:
        assert_close(found["every"], every)
        assert_close(found["near"], near)
        # VLMo's code: the loss and the scale's gradient are right, the backbone's is 1 / processes of what it should be
        published = found["published"]
        assert_close({k: published[k] for k in backbone}, backbone, scale=1 / size)
        assert_close({k: published[k] for k in outside}, outside)
        if size == 2:
            assert_close(found["sharded"], every)
            assert found["left"] == {(False, True)}, "a text gathers no image expert"
            assert found["local"]["loss.itc"] < 0.9 * itc["loss.itc"], "fewer to tell apart"


# ---- the tasks
@pytest.fixture
def tasks(run, coloured_table) -> dict[str, TrainConfig]:
    """Runs on questions, sets, captions and masks; what is known of a row differs from one half of a batch to the
    other."""
    folder = coloured_table.parent
    mask = np.zeros((24, 24), dtype=np.uint8)
    mask[6:18, 2:10], mask[:4] = 1, UNLABELLED
    table, out = Table.open(coloured_table), [io.BytesIO(), io.BytesIO()]
    Image.fromarray(mask).save(out[0], "PNG")
    Image.fromarray(np.where(mask == 0, UNLABELLED, mask)).save(out[1], "PNG")
    masked = Table.create(folder / "pictures", "pictures", extra=pa.schema([("mask", pa.binary())]),
                          info={"mask_classes": ["ground", "square"]})  # fmt: skip
    rows = table.read(["id", "bytes", "captions", "status"]).to_pylist()
    masked.append([row | {"mask": out[i % 3 == 0].getvalue()} for i, row in enumerate(rows)])
    items = Table.create(folder / "items", "items", extra=pa.schema([("parts", pa.list_(pa.int64()))]))
    for i, row in enumerate(rows):
        words, colour = "what stands there" + " on the ground" * (i % 2), ("red", "green", "blue")[i % 3]
        asked = {"pictures": [row["id"]], "prompt": words, "answer": colour, "task": "question"}
        both = {"pictures": [row["id"], rows[i - 1]["id"]], "prompt": words, "answer": ("true", "false")[i % 2]}
        items.append([{"id": f"q{i}", **asked}, {"id": f"s{i}", **both, "parts": [i % 3, 1] if i % 3 else None}])
    config = replace(run, batch_size=8, model=replace(run.model, pool="first", segment_width=16))
    on_items = lambda task, **losses: replace(config, data=str(items.uri), losses=LossWeights(**losses),
                                              dataset=DataConfig(where=task))  # fmt: skip
    on_pictures = lambda **losses: replace(config, data=str(masked.uri), losses=LossWeights(**losses))
    return {
        "answer": on_items("task == 'question'", answer=1.0),
        "set": on_items("task is None", set=1.0, parts=1.0),
        "caption": on_pictures(caption=1.0),
        "segment": on_pictures(segment=1.0),
    }


def task_gradients(tasks: dict[str, TrainConfig], parallel: tuple[str, ...] = ("ddp", "fsdp")) -> dict:
    with processes(CPU) as world:
        return {
            (name, way): gradients(world, replace(task, parallel=way), task.losses, one_length=way == "fsdp")
            for name, task in tasks.items() for way in parallel
        }  # fmt: skip


def test_questions_sets_captions_and_masks_give_on_two_processes_what_they_give_on_one(tasks, tmp_path):
    alone = task_gradients(tasks, ("ddp",))
    for found in on(2, task_gradients, tmp_path / "out", tasks):
        for (name, way), values in found.items():
            assert all(values[f"loss.{loss}"] > 0 for loss in tasks[name].losses.active()), (name, way)
            assert_close(values, alone[name, "ddp"], rtol=1e-5)  # answers and pixels: the loss itself is in float32


# ---- whole runs
def evaluated(model: VLMo, _) -> dict[str, float]:
    return {"scale": float(model.logit_scale.detach()), "sharded": float(is_sharded(model.logit_scale))}


def whole_runs(config: TrainConfig) -> str:
    out = lambda name: str(Path(config.out).parent / name)
    with processes(CPU) as world:
        done = train(replace(config, out=out("two"), eval_every=2), evaluate=evaluated, progress=False)
        assert done.step == 4
        sharded = replace(config, parallel="fsdp", eval_every=2)
        with pytest.raises(Stopped):
            train(replace(sharded, out=out("cut")), evaluate=evaluated, progress=False, on_step=stop_after(2))
        train(replace(sharded, out=out("one-cut")), evaluate=evaluated, progress=False, resume=True)
        if world.rank == 1:
            Processor.normalize = lambda self, pixels: torch.full(pixels.shape, torch.nan)
        with pytest.raises(NonFiniteLoss, match="step 0") as error:
            train(replace(config, out=out("broken"), losses=LossWeights(mim=1.0), eval_every=0), progress=False)
        assert "It began on process 1 of 2." in str(error.value)
        if world.rank == 1:
            gone_row = {"id": "p7", "bytes": None, "uri": "gone.png", "offset": None, "length": None}
            Batches.__getitem__ = lambda self, step: decoded(gone_row, Path(config.out))
        with pytest.raises((ValueError, FailedElsewhere)) as gone:
            train(replace(config, out=out("gone"), eval_every=0), progress=False)
        text = "picture 'p7' is in "
        assert str(gone.value).startswith(text if world.rank else f"process 1 of 2 failed: ValueError: {text}")
        return str(error.value)


def killed(config: TrainConfig) -> None:
    def on_step(step: int) -> None:
        if step == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    train(config, progress=False, on_step=on_step)


def broken(config: TrainConfig) -> None:
    def on_step(step: int) -> None:
        if step == 3 and os.environ["RANK"] == "0":
            raise OSError("no space left on device")

    train(config, progress=False, on_step=on_step)


def test_an_error_of_one_process_is_told_by_the_others(run, tmp_path):
    config = replace(run, losses=ITC, steps=6, save_every=2)
    (first, own), (second, told) = on(2, broken, tmp_path / "out", config, fails=True)
    assert (first, second) == (3, 3)
    assert "OSError: no space left on device\nThis was process 0 of 2" in own
    assert "This was process 1 of 2" in told
    assert "Process 0 of 2 failed first: OSError: no space left on device" in told


def test_a_process_that_is_killed_ends_the_others_with_a_message(run, tmp_path):
    config = replace(run, losses=ITC, steps=6, save_every=2)
    (first, note), (second, _) = on(2, killed, tmp_path / "out", config, fails=True)
    assert (first, second) == (3, -signal.SIGKILL)
    assert "This was process 0 of 2. When one of them ends, the others lose their connection" in note
    last = checkpoints.latest(config.out)
    assert last
    assert last.step == 2


def numbers(run: Path) -> list[dict]:
    rows = checkpoints.read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_s", "data_wait")} for row in rows]


def weights(run: Path, config: TrainConfig) -> dict[str, torch.Tensor]:
    """Those that the run goes on from, read by one process, and those of the usable model."""
    last = checkpoints.latest(run)
    assert last
    model = build(config, Table.open(config.data))[0]
    optimizer, average = torch.optim.AdamW(parameter_groups(model, 0.05)), EMA(model, 0.5)
    assert checkpoints.restore(last, model, optimizer, average) == last.step
    usable = {f"average.{k}": v for k, v in read_tensors(last.path / "model.safetensors").items()}
    assert all(torch.equal(usable[f"average.{k}"], v) for k, v in average.state.items())
    return model.state_dict() | usable


def test_runs_are_those_of_one_process_and_go_on_with_any_number_of_them(run, tmp_path):
    # A large eps: where a gradient is 0 but for rounding, Adam would make a whole step of it.
    config = replace(run, steps=4, save_every=2, eval_every=2, eps=1e-3, precision="fp32", out=str(tmp_path / "one"))
    train(config, evaluate=evaluated, progress=False)
    cut = replace(config, out=str(tmp_path / "one-cut"))
    with pytest.raises(Stopped):
        train(cut, evaluate=evaluated, progress=False, on_step=stop_after(2))
    broken = on(2, whole_runs, tmp_path / "out", config)
    named = [set(re.findall(r"p\d\d\d", message.split("batch: ")[1])) for message in broken]
    assert [len(names) for names in named] == [8, 8], "each process stops, and names its part of the batch"
    assert not named[0] & named[1]
    shards = sorted(p.name for p in (checkpoints.latest(tmp_path / "cut").path / "train_state").iterdir())
    assert shards == [".metadata", "__0_0.distcp", "__1_0.distcp"], "each process writes what it holds"
    train(replace(config, out=str(tmp_path / "cut")), evaluate=evaluated, progress=False, resume=True)
    before = {k: v.detach() for k, v in build(config, Table.open(config.data))[0].state_dict().items()}
    moved = {k: v - before[k.removeprefix("average.")] for k, v in weights(tmp_path / "one", config).items()}
    for name in ("two", "cut", "one-cut"):
        for found, row in zip(numbers(tmp_path / name), numbers(tmp_path / "one"), strict=True):
            assert found == pytest.approx(row, rel=1e-4), name
        found = weights(tmp_path / name, config)
        error = {k: v - before[k.removeprefix("average.")] - moved[k] for k, v in found.items()}
        far = [k for k, v in moved.items() if error[k].norm() > 1e-4 * v.norm()]
        assert not far, f"{name}: of how far one process moved them, these are off by more than 1e-4"
