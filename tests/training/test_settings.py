"""Settings that no run can have, or that don't go together, are refused before the first step, with what to do."""

import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from omma.config import apply
from omma.models.vlmo import VLMoConfig
from omma.table import Table
from omma.training.batches import DataConfig
from omma.training.config import TrainConfig
from omma.training.items import ItemBatches
from omma.training.loop import train
from omma.training.losses import LossWeights
from omma.training.mim import MIMConfig
from omma.training.setup import build, check, starting_model, training_set


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (TrainConfig, {"batch_size": 0, "log_every": 0, "save_every": 0, "warmup": -1, "workers": -1, "eval_every": -1,
                       "patience": -1, "threads": -1, "epochs": -1.0, "peak_lr": -1e-3, "final_lr": -1.0, "eps": -1.0,
                       "weight_decay": -1.0, "max_grad_norm": -1.0, "ema": 1.5, "fusion_share": 2.0, "head_lr": -1.0,
                       "trim_steps": -1, "panels": 0, "panel_gap": 2.0}),
        (DataConfig, {"first_caption": 7.0, "jitter": -1.0, "mlm_probability": 2.0, "mim_ratio": 2.0, "max_labels": 0,
                      "mim_smallest": 0, "length_window": -1, "mixup": -0.5, "cutmix": -0.5, "image_share": -1.0,
                      "text_share": -1.0, "crop_scale": 0.0}),
        (MIMConfig, {"layers": 0, "codes": 0}),
        (LossWeights, {"itc": -1.0, "segment": math.nan}),
        (VLMoConfig, {"image_size": 0, "patch_size": 0, "vocab_size": 0, "max_text_len": 1, "hidden_size": 0,
                      "num_layers": 0, "num_heads": 0, "mlp_ratio": 0, "relative_text_len": 1, "embed_dim": 0,
                      "mim_size": 0, "num_image_types": 0, "segment_width": 0, "num_pair_classes": -1,
                      "num_set_classes": -1, "drop_path": 1.0, "text_dropout": 1.0}),
    ],
)  # fmt: skip
def test_a_number_outside_its_limits_is_refused_by_name(settings, values):
    for name, value in values.items():
        with pytest.raises(ValueError, match=f"^{name}={value}: give "):
            settings(**{name: value})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"itc_vl": True, "num_vl_layers": 0}, "itc_vl=True stands on layers of the vision-language expert"),
        ({"positions": "relative", "relative_text_len": 30}, "max_text_len=40, but .* relative_text_len=30"),
    ],
)
def test_a_model_that_contradicts_itself_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        VLMoConfig(**options)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": DataConfig(images="tables/more")}, "dataset.images=tables/more is for losses.mim=1"),
        ({"dataset": DataConfig(texts="book.txt")}, "dataset.texts=book.txt is for losses.text_mlm=1"),
        ({"dataset": DataConfig(mixup=0.4)}, "dataset.mixup=0.4 is for losses.classify=1 or losses.tags=1"),
        ({"eval_every": 2}, r"eval_every=2 .* omma.train\(config, evaluate=FUNCTION\)"),
        ({"monitor": "mrr"}, "monitor=mrr: there is nothing that evaluates"),
        ({"freeze": ("*",)}, r"freeze=\* leaves nothing to train"),
        ({"freeze": ("vision", "type*", "norm.*"), "losses": LossWeights(mim=1.0)}, "no weight that mim reach is"),
        ({"panels": 3}, "a picture is 3 panels here .* itc, itm, mlm learn from single pictures; set panels=1"),
        ({"panels": 3, "losses": LossWeights(caption=1.0)}, "caption learn from single pictures"),
    ],
)
def test_settings_that_nothing_would_read_or_that_leave_nothing_to_learn_are_refused(tiny_run, changes, said):
    with pytest.raises(ValueError, match=said):
        train(tiny_run(**changes), progress=False)


@pytest.fixture
def labelled(coloured_table) -> Path:
    """The coloured squares with labels of several types."""
    table = Table.open(coloured_table)
    n = table.num_rows
    table.add_column("number", pa.array([i % 3 for i in range(n)]))
    table.add_column("numbers", pa.array([[i % 3, 7] for i in range(n)]))
    table.add_column("codes", pa.array([[i % 5] * 9 for i in range(n)], pa.list_(pa.int32())))
    return coloured_table


def test_labels_may_be_whole_numbers_or_lists_of_them_and_nothing_that_is_no_label(tiny_run, labelled):
    run = lambda loss, column: tiny_run(losses=LossWeights(**{loss: 1.0}), dataset=DataConfig(label=column))
    for loss, column, classes in (("classify", "number", ("0", "1", "2")), ("tags", "numbers", ("0", "1", "2", "7"))):
        assert build(run(loss, column), Table.open(labelled))[0].config.classes == classes
    for column in ("captions", "bytes"):
        with pytest.raises(ValueError, match=f"column '{column}' of .* holds .*; labels are texts, whole numbers"):
            build(run("classify", column), Table.open(labelled))


def test_patch_codes_beyond_the_head_are_refused(tiny_run, labelled):
    config = tiny_run(losses=LossWeights(mim=1.0), mim=MIMConfig(target="tokens", codes=4), steps=2,
                      dataset=DataConfig(patch_codes="codes", crop_scale=1.0))  # fmt: skip
    with pytest.raises(ValueError, match="patch codes reach from 0 to 4, and the model guesses 0 to 3"):
        train(config, progress=False)


def test_a_router_is_balanced_beside_any_objective(tiny_run, labelled):
    """Classes and hidden patches: steps without a caption, on a table that has none."""
    table = Table.open(labelled)
    rows = table.read(["id", "bytes", "status", "number"]).to_pylist()
    bare = Table.create(labelled.parent / "bare", "pictures", extra=pa.schema([("number", pa.int64())]))
    bare.append([row | {"captions": []} for row in rows])
    for losses in (LossWeights(mim=1.0, balance=0.1), LossWeights(classify=1.0, balance=0.1)):
        config = tiny_run(next(iter(losses.active())), data=str(bare.uri), losses=losses, steps=1, warmup=1)
        config = replace(config, model=replace(config.model, router="top1"), dataset=DataConfig(label="number"))
        assert train(config, progress=False).metrics()[-1]["loss_balance"] >= 1


def test_a_batch_without_a_relation_is_no_error_where_relations_are_all_that_is_learned(tiny_run, coloured_table):
    rows = Table.open(coloured_table).read(["id", "bytes", "status"]).to_pylist()
    plain = Table.create(coloured_table.parent / "plain", "pictures")
    plain.append([row | {"captions": [{"text": "a square", "language": "en"}]} for row in rows])
    config = tiny_run(data=str(plain.uri), losses=LossWeights(itm_relation=1.0), steps=2)
    assert [row["loss"] for row in train(config, progress=False).metrics()] == [0.0, 0.0]


# ---- what comes from init
def test_checks_look_at_the_model_that_will_be_trained_not_at_the_defaults(tiny_run, tmp_path):
    first = tiny_run("first", steps=1, warmup=1, losses=LossWeights(itc=1.0))
    train(replace(first, model=replace(first.model, itc_vl=True, router="top1")), progress=False)
    plain = replace(first, out=str(tmp_path / "second"), init=first.out, inherit=True, model=VLMoConfig())
    # Second heads, a router and a picture size that the config itself doesn't name, but init has.
    check(replace(plain, losses=LossWeights(itc=1.0, itc_vl=1.0, balance=0.1)), resume=False)
    check(replace(plain, losses=LossWeights(itc=1.0, distill=1.0), teacher=first.out), resume=False)
    with pytest.raises(ValueError, match="goes on from a trained model: give init=RUN"):
        check(replace(plain, init=None), resume=False)


def test_what_is_given_by_hand_is_set_even_where_it_is_the_default(tiny_run, tmp_path):
    first = tiny_run("first", steps=1, warmup=1, losses=LossWeights(itc=1.0))
    first = replace(first, model=replace(first.model, drop_path=0.2, text_dropout=0.3))
    train(first, progress=False)
    plain = TrainConfig(data=first.data, init=first.out, out=str(tmp_path / "second"), inherit=True)
    assert starting_model(plain).drop_path == 0.2
    asked = apply(apply(plain, ["model.drop_path=0"]), ["steps=3"])
    assert asked.given == ("model.drop_path", "steps")
    assert (starting_model(asked).drop_path, starting_model(asked).text_dropout) == (0.0, 0.3)


def test_prompts_learn_nothing_that_the_model_itself_would_have_to_learn(tiny_run, labelled):
    first = train(tiny_run("first", steps=1, warmup=1), progress=False)
    config = tiny_run("second", init=str(first.run), steps=1, warmup=1, visual_prompts=2)
    number = DataConfig(label="number")
    with pytest.raises(ValueError, match=r"has no head that was trained for classify \(classes\)"):
        train(replace(config, losses=LossWeights(classify=1.0), dataset=number), progress=False)
    with pytest.raises(ValueError, match=r"no weight that text_mlm reach is trained: .*prompts=8 words"):
        train(replace(config, losses=LossWeights(text_mlm=1.0)), progress=False)


def test_losses_parts_wants_a_number_for_each_picture_or_panel(tiny_run, coloured_table, tmp_path):
    coloured_table.rename(tmp_path / "pictures")
    items = Table.create(tmp_path / "items", "items", extra=pa.schema([("parts", pa.list_(pa.int64()))]))
    row = {"pictures": ["p000", "p001"], "prompt": "two squares", "answer": "true", "parts": [1, 2]}
    items.append([row | {"id": f"i{i}"} for i in range(8)] + [row | {"id": "bare", "pictures": []}])
    config = tiny_run(data=str(items.uri), losses=LossWeights(set=1.0, parts=1.0))
    for panels, parts in ((1, [1, 2]), (2, None)):
        config = replace(config, panels=panels)
        model, processor, _ = build(config, items)
        arguments = (config, items, model, processor)
        if parts is None:
            with pytest.raises(ValueError, match="has one number in its column parts for each of its pictures"):
                training_set(*arguments)
        batches = training_set(*(replace(config, losses=LossWeights(set=1.0)), *arguments[1:]))
        assert isinstance(batches, ItemBatches)
        assert batches.skipped == {"no picture": 1}
        assert batches[0].parts.tolist() == [parts or [-1] * 4] * 8


# ---- what a resumed run keeps
def test_a_resumed_run_keeps_its_words_and_labels_though_its_table_has_grown(tiny_run, labelled):
    table = Table.open(labelled)
    rows = table.read(["id", "bytes", "status"]).to_pylist()
    runs = {
        "words": tiny_run("words", steps=2, save_every=1),
        "labels": tiny_run("labels", steps=2, save_every=1, losses=LossWeights(classify=1.0),
                           dataset=DataConfig(label="source")),
    }  # fmt: skip
    table.append([rows[i] | {"id": f"s{i}", "source": "ab"[i % 2], "captions": []} for i in range(16)])
    for config in runs.values():
        with pytest.raises(KeyboardInterrupt):
            train(config, progress=False, on_step=interrupt)
    words = [{"text": "zebras jump over quick brown foxes", "language": "en"}]
    table.append([row | {"id": f"z{i}", "source": "new", "captions": words} for i, row in enumerate(rows)])
    for config in runs.values():
        done = train(config, progress=False, resume=True)
        assert done.step == 2
        first, last = (Path(config.out) / f"step{step:08d}" for step in (1, 2))
        for name in ("tokenizer.json", "config.json"):
            assert (first / name).read_bytes() == (last / name).read_bytes()


def interrupt(step: int) -> None:
    raise KeyboardInterrupt


def test_a_run_is_not_resumed_as_another_model(tiny_run):
    config = tiny_run(steps=1, warmup=1)
    train(config, progress=False)
    for name, value in (("drop_path", 0.5), ("hidden_size", 48)):
        other = replace(config, model=replace(config.model, **{name: value}))
        with pytest.raises(ValueError, match=rf"other settings: model\.{name}: .* -> {value}\. Resume with the same"):
            train(other, progress=False, resume=True)


def test_a_run_on_anothers_words_is_resumed_without_it(tiny_run):
    first = train(tiny_run("first", steps=1, warmup=1), progress=False)
    config = tiny_run("second", steps=2, save_every=1, init=str(first.run))
    with pytest.raises(KeyboardInterrupt):
        train(config, progress=False, on_step=interrupt)
    again = train(replace(config, init=None), progress=False, resume=True)
    whole = train(replace(config, out=config.out + "-whole"), progress=False)
    assert (again.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
