"""CLIP under the loop: it learns, resumes bit for bit, is tuned from what there is, and says what went wrong where."""

import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import omma
from conftest import Stopped, stop_after
from gloo import on
from omma.config import apply
from omma.models.clip import CLIP, NANO
from omma.models.hf import vision_tower
from omma.models.preprocess import Processor
from omma.models.weights import from_pretrained, interpolate, read_tensors
from omma.training import checkpoint as checkpoints
from omma.training.clip_config import ClipTrainConfig
from omma.training.clip_eval import evaluation, retrieval
from omma.training.clip_setup import PICTURES, build
from omma.training.compiling import compile_blocks
from omma.training.distributed import is_sharded, processes
from omma.training.loop import NonFiniteLoss, train

CPU = torch.device("cpu")
SIZES = ["image_size=24", "patch_size=8", "stem=patch", "hidden_size=32", "num_layers=2", "num_heads=2"]
TINY = apply(NANO, [*(f"vision.{size}" for size in SIZES), *(f"text.{size}" for size in SIZES[3:]),
                    "text.vocab_size=60", "text.max_text_len=10", "embed_dim=16"])  # fmt: skip


@pytest.fixture
def run(coloured_table, tmp_path):
    """run(out, key=value...): a run that trains in a second."""

    def config(out: str = "run", **changes) -> ClipTrainConfig:
        base = ClipTrainConfig(data=str(coloured_table), out=str(tmp_path / out), model=TINY, steps=4, batch_size=8,
                               warmup=1, save_every=2, log_every=1, threads=1, device="cpu", workers=0,
                               precision="fp32")  # fmt: skip
        return replace(base, **changes)

    return config


def weights(run: Path) -> dict[str, torch.Tensor]:
    last = checkpoints.latest(run)
    assert last
    state = checkpoints.read_state(last)
    return state["model"] | {f"saved.{k}": v for k, v in read_tensors(last.path / "model.safetensors").items()}


def assert_equal(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_run_in_chunks_with_patch_dropout_goes_on_bit_for_bit_and_leaves_an_eye(run, tmp_path, coloured_table):
    config = run("whole", chunk=3, patch_dropout=0.4, val=str(coloured_table), eval_every=2)
    done = train(config, progress=False)
    with pytest.raises(Stopped):
        train(replace(config, out=str(tmp_path / "cut")), progress=False, on_step=stop_after(3))
    train(replace(config, out=str(tmp_path / "cut")), progress=False, resume=True)
    assert_equal(tmp_path / "whole", tmp_path / "cut")
    rows = done.metrics()
    assert {"loss_infonce", "similarity_right", "similarity_wrong", "logit_scale", "data_wait"} <= set(rows[0])
    assert [row["step"] for row in rows if "eval.mrr" in row] == [2, 4]
    eye = omma.load_encoder(done.run, device="cpu")
    assert eye.encode_text(["a red square"]).shape == (1, 16)
    found = evaluation(str(coloured_table))(from_pretrained(done.path, kind=CLIP), Processor.load(done.path))
    assert found["mrr"] == pytest.approx(rows[-1]["eval.mrr"], abs=1e-6)


def test_a_batch_in_chunks_moves_the_weights_as_a_whole_one_does(run, tmp_path):
    """eps is large: where a gradient is 0 but for rounding, Adam would make a whole step of it."""
    for name, chunk, loss in (("a", 0, "siglip"), ("b", 3, "siglip")):
        train(run(name, chunk=chunk, loss=loss, steps=2, eps=1e-3), progress=False)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.allclose(a[k], b[k], rtol=1e-4, atol=1e-7) for k in a)
    assert "logit_bias" in a


def test_it_is_tuned_from_what_there_is_and_measured_before_and_after(run, tmp_path, coloured_table):
    train(run("start", steps=2), progress=False)
    start = read_tensors(tmp_path / "start" / "last" / "model.safetensors")
    tuned = run("lit", init=str(tmp_path / "start"), train_vision="frozen", train_text="lora", val=str(coloured_table))
    done = train(tuned, progress=False)
    with pytest.raises(Stopped):
        train(replace(tuned, out=str(tmp_path / "cut")), progress=False, on_step=stop_after(3))
    train(replace(tuned, out=str(tmp_path / "cut")), progress=False, resume=True)
    assert_equal(tmp_path / "lit", tmp_path / "cut")
    assert [row["step"] for row in done.metrics() if "eval.mrr" in row] == [0, 4]
    end = from_pretrained(done.path, kind=CLIP).state_dict()
    moved = {name.split(".")[0] for name in start if not torch.equal(start[name], end[name])}
    assert moved == {"text", "image_projection", "text_projection", "logit_scale"}
    assert all(".lora_" not in name for name in end), "adapters are merged"

    halfway = omma.mix(tmp_path / "start", tmp_path / "lit", tmp_path / "mixed", alpha=0.5, new=coloured_table)
    assert [row["alpha"] for row in halfway.curve] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert halfway.curve[-1]["new.mrr"] == pytest.approx(done.metrics()[-1]["eval.mrr"], abs=1e-6)
    mixed = from_pretrained(tmp_path / "mixed", kind=CLIP).state_dict()
    name = "text_projection.weight"
    torch.testing.assert_close(mixed[name], (start[name] + end[name]) / 2)

    train(run("larger", steps=1, init=str(tmp_path / "start"), image_size=32), progress=False)
    omma.mix(tmp_path / "start", tmp_path / "larger", tmp_path / "between", alpha=0.25)
    begun = from_pretrained(tmp_path / "start" / "last", kind=CLIP).at_resolution(32).state_dict()
    larger = from_pretrained(tmp_path / "larger" / "last", kind=CLIP).state_dict()
    mixed, name = from_pretrained(tmp_path / "between", kind=CLIP), "vision.image_positions"
    assert mixed.config.vision.image_size == 32
    torch.testing.assert_close(mixed.state_dict()[name], torch.lerp(begun[name], larger[name], 0.25))
    assert not torch.equal(begun[name], larger[name])
    with pytest.raises(ValueError, match=r"alpha=2: 0 is the start"):
        interpolate(start, end, 2)
    with pytest.raises(ValueError, match=r"differ in logit_scale \(1 of"):
        interpolate(start, {k: v for k, v in end.items() if k != "logit_scale"}, 0.5)


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, str]:
    """Folders of a tiny ViT, a BERT and a SigLIP, as transformers saves them."""
    import transformers as hf

    place = tmp_path_factory.mktemp("others")
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    seen, read = size | {"image_size": 24, "patch_size": 8}, size | {"vocab_size": 16, "max_position_embeddings": 16}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "green", "blue", "square", "on", "the", "left",
             "right"]  # fmt: skip
    tokenizer = hf.BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=16)
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    dual = hf.SiglipConfig(vision_config=seen, text_config=read | ends)
    torch.manual_seed(0)
    models = {"vit": hf.ViTModel(hf.ViTConfig(**seen)), "bert": hf.BertModel(hf.BertConfig(**read)),
              "dinov3": hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**seen)), "siglip": hf.SiglipModel(dual)}  # fmt: skip
    models["siglip"].logit_scale.data.fill_(math.log(117.3))  # that of the released base size, above CLIP's ceiling
    for name, model in models.items():
        model.save_pretrained(place / name)
        if name in ("bert", "siglip"):
            tokenizer.save_pretrained(place / name)
    return {name: str(place / name) for name in models}


def test_towers_of_others_learn_to_meet_and_one_of_them_may_stay_as_it_is(run, others):
    done = train(run("met", vision=others["vit"], text=others["bert"], train_vision="frozen", steps=2), progress=False)
    own, found = vision_tower(others["vit"]).state_dict(), read_tensors(done.path / "model.safetensors")
    assert all(torch.equal(found[f"vision.{name}"], value) for name, value in own.items())
    eye = omma.load_encoder(done.run, device="cpu")
    assert eye.encode_text(["a red square"]).shape == (1, 16)


def test_a_siglip_goes_on_as_one(run, others):
    import transformers as hf

    done = train(run("siglip", init=others["siglip"], peak_lr=0.0, steps=1, warmup=0, ema=None), progress=False)
    assert "loss_siglip" in done.metrics()[0]
    model, theirs = from_pretrained(done.path, kind=CLIP), hf.SiglipModel.from_pretrained(others["siglip"]).eval()
    pixels = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = theirs.vision_model(pixels).pooler_output
        torch.testing.assert_close(model.encode_image(pixels), wanted / wanted.norm(dim=-1, keepdim=True))
    assert model.logit_bias is not None
    torch.testing.assert_close(model.logit_bias, theirs.logit_bias.detach())
    assert model.logit_scale.exp().item() == pytest.approx(117.3)


def test_pictures_are_prepared_as_the_vision_tower_wants_them(run, others):
    _, processor, _ = build(run(vision=others["dinov3"], text=others["bert"]))
    assert not processor.rounded
    words = {"tokenizer", "max_text_len", "pad_id", "pad_left", "read_padding"}
    assert {*PICTURES, *words} == {field.name for field in fields(Processor)}


def test_a_text_read_at_its_end_ends_where_its_own_tokenizer_says(run):
    model = apply(TINY, ["text.pool=eos", "text.attention=causal"])
    made, processor, _ = build(run(model=model))
    ids, mask = processor.texts(["a red square", "blue"])
    torch.testing.assert_close(made.text.end_of(ids), mask.sum(dim=1) - 1)


def test_towers_out_of_a_run_take_another_size_and_no_longer_texts(run, tmp_path):
    start = train(run("start", steps=1, warmup=0), progress=False)
    place = str(tmp_path / "start")
    both = run("both", vision=place, text=place, image_size=48, patch_dropout=0.5, context_length=8)
    model, processor, _ = build(both)
    assert (processor.image_size, processor.max_text_len, model.config.vision.patch_dropout) == (48, 8, 0.5)
    larger = from_pretrained(start.path, kind=CLIP).at_resolution(48)
    torch.testing.assert_close(model.vision.state_dict(), larger.vision.state_dict())
    with pytest.raises(ValueError, match=r"context_length=11: .*start reads at most 10 tokens"):
        build(replace(both, context_length=11))
    (start.path / "preprocessor.json").unlink()
    for changes in ({"init": place}, {"vision": place}):
        with pytest.raises(FileNotFoundError, match=r"has no preprocessor\.json; a model folder of omma holds"):
            build(run("again", **changes))


@pytest.mark.slow  # test_compiling.py does the same to the layers of a VLMo
def test_compiled_layers_learn_what_plain_ones_do(run, tmp_path, others, monkeypatch):
    graphs = []

    def backend(graph, inputs):  # traces alone: code takes a C++ compiler and minutes
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr("omma.training.loop.compile_blocks", lambda model: compile_blocks(model, backend))
    for name, compiled in (("plain", False), ("compiled", True)):
        train(run(name, compile=compiled, steps=1, warmup=0, eps=1e-3, vision=others["vit"]), progress=False)
    assert len(graphs) >= 2, "one a tower at least"
    a, b = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], rtol=1e-4, atol=1e-6) for name in a)


def test_each_tower_has_its_own_rate(run):
    config = run(vision_lr=0.5, text_lr=0.0, head_lr=2.0, steps=1, ema=None, weight_decay=0.0)
    before = train(replace(config, out=config.out + "0", peak_lr=0.0), progress=False)
    done = train(config, progress=False)
    first, last = (read_tensors(d.path / "model.safetensors") for d in (before, done))
    largest = {k: float((last[k] - first[k]).abs().max()) for k in first}
    assert largest["text.blocks.0.mlp.fc1.weight"] == 0.0
    assert largest["vision.blocks.0.mlp.fc1.weight"] == pytest.approx(0.5e-3, rel=1e-2)  # Adam's first step is the rate
    assert largest["image_projection.weight"] == pytest.approx(2e-3, rel=1e-2)


def test_captions_longer_than_the_context_are_told_at_the_start_and_counted(run, coloured_table, tmp_path, capsys):
    """Of 48 captions, "red left" and its like have four tokens with those at both ends, the others more."""
    tars = tmp_path / "tars"
    omma.export(coloured_table, tars, to="webdataset")
    for name, data in (("table", coloured_table), ("tars", tars)):
        train(run(name, data=str(data), context_length=5, steps=3), progress=True)
        said = " ".join(capsys.readouterr().err.split())
        assert "24 of 48 captions are longer than 5 tokens; their ends are cut off" in said, name
        rows = checkpoints.read_metrics(tmp_path / name / "metrics.jsonl")
        assert 0 < sum(row.get("cut", 0) for row in rows) < 24, name
    train(run("whole"), progress=True)
    assert "longer" not in capsys.readouterr().err


def test_retrieval_is_counted_as_by_hand():
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.7, 0.2], [0.3, 0.3, 0.3]])
    found = retrieval(scores, ["a", "b", "c"])
    assert found["i2t_recall@1"] == pytest.approx(1 / 3)  # ranks 1, 2, and 2 of two ties
    assert found["t2i_recall@1"] == pytest.approx(2 / 3)  # ranks 1, 1, 2
    assert found["mrr"] == pytest.approx(((1 + 1 / 2 + 1 / 2) / 3 + (1 + 1 + 1 / 2) / 3) / 2)
    assert retrieval(scores, ["a", "a", "c"])["i2t_recall@1"] == pytest.approx(2 / 3), "equal captions are no rivals"


def test_what_cannot_run_is_refused(run, tmp_path):
    for changes, message in (
        ({"train_vision": "frozen"}, "train_vision=frozen keeps the vision tower's weights, and these would be random"),
        ({"init": "x", "vision": "nano"}, "init=x is a whole model"),
        ({"data": ""}, "no data"),
        ({"chunk": -1}, "chunk=-1: give 0 or more"),
        ({"init": str(tmp_path / "nothing")}, "nothing"),
        ({"eval_every": 2}, "nothing that evaluates"),
        ({"vision_lr": -1.0}, "vision_lr=-1.0: give 0.0 or more"),
        ({"tile": -3}, "tile=-3: give 1 or more"),
        ({"val_rows": 0}, "val_rows=0: give 1 or more"),
        ({"context_length": 0}, "context_length=0: give 1 or more"),
        ({"image_size": -8}, "image_size=-8: give 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            train(run("refused", **changes), progress=False)


# ---- several processes
def shared(config: ClipTrainConfig) -> str:
    out = lambda name: str(Path(config.out).parent / name)
    with processes(CPU) as world:
        train(replace(config, out=out("two"), chunk=2), progress=False)
        train(replace(config, out=out("from-one")), progress=False, resume=True)
        with pytest.raises(Stopped):
            train(replace(config, out=out("sliced"), parallel="fsdp", chunk=2), progress=False, on_step=stop_after(2))
        if world.rank == 1:
            Processor.normalize = lambda self, pixels: torch.full(pixels.shape, torch.nan)
        with pytest.raises(NonFiniteLoss) as error:
            train(replace(config, out=out("broken")), progress=False)
        return str(error.value)


def test_two_processes_train_what_one_does_and_both_name_the_one_whose_numbers_break(run, tmp_path):
    config = run("one", steps=3, eps=1e-3)
    train(config, progress=False)
    with pytest.raises(Stopped):
        train(replace(config, out=str(tmp_path / "from-one")), progress=False, on_step=stop_after(2))
    told = on(2, shared, tmp_path / "out", config)
    assert all("It began on process 1 of 2." in text for text in told)
    train(replace(config, out=str(tmp_path / "sliced")), progress=False, resume=True)
    one = weights(tmp_path / "one")
    assert not any(is_sharded(value) for value in one.values())
    for name in ("two", "from-one", "sliced"):
        found = weights(tmp_path / name)
        far = [k for k in one if not torch.allclose(found[k], one[k], rtol=1e-3, atol=1e-5)]
        assert not far, name
