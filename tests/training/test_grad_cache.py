"""Chunks against the whole batch, with the same randomness; DDP and FSDP2 against one process."""

import functools
import weakref

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from gloo import on
from omma.training.contrastive import info_nce, siglip
from omma.training.distributed import World, processes, whole
from omma.training.grad_cache import backward_in_chunks

CPU = torch.device("cpu")
ROWS, WIDTH, CHUNKS = 12, 8, 3


class TwoTowers(nn.Module):
    """Pictures (b, 16) and texts (b, 12) to vectors, with dropout."""

    def __init__(self, dropout: float):
        super().__init__()
        self.image = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, WIDTH))
        self.text = nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, WIDTH))
        self.logit_scale = nn.Parameter(torch.tensor([1.5]))
        self.logit_bias = nn.Parameter(torch.tensor([-2.0]))

    def forward(self, chunk: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            "image_embeds": F.normalize(self.image(chunk["pictures"]), dim=-1),
            "text_embeds": F.normalize(self.text(chunk["texts"]), dim=-1),
            "negatives": F.normalize(self.text(chunk["wrong"]), dim=-1),
            "keys": chunk["keys"],
            "logit_scale": self.logit_scale.exp().reshape(()),
            "logit_bias": self.logit_bias.reshape(()),
        }


def towers(dropout: float = 0.3) -> TwoTowers:
    torch.manual_seed(0)
    return TwoTowers(dropout).double()


def batch(rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    sizes = {"pictures": (ROWS, 16), "texts": (ROWS, 12), "wrong": (ROWS, 2, 12)}
    found = {name: torch.randn(*size, generator=draw, dtype=torch.double)[rows] for name, size in sizes.items()}
    return found | {"keys": (torch.arange(2 * ROWS).view(ROWS, 2) % 19)[rows]}


def in_chunks(given: dict[str, torch.Tensor], count: int = CHUNKS) -> list[dict[str, torch.Tensor]]:
    parts = {name: x.tensor_split(count) for name, x in given.items()}
    return [{name: part[k] for name, part in parts.items()} for k in range(count)]


def single(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.float() if v.is_floating_point() else v for k, v in given.items()}


def both_losses(embeds: dict[str, torch.Tensor], **options) -> dict[str, torch.Tensor]:
    bias, given = embeds["logit_bias"], {k: v for k, v in embeds.items() if k != "logit_bias"}
    return {"info_nce": info_nce(**given, **options), "siglip": siglip(**given, logit_bias=bias, **options)}


WEIGHTS = {"info_nce": 1.0, "siglip": 0.5}


def all_at_once(model: nn.Module, groups: list[list[dict]], autocast: bool = False) -> dict[str, torch.Tensor]:
    """The reference: all chunks' activations are kept. groups: the chunks of each process, whose seed is its rank."""
    parts = []
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for seed, chunks in enumerate(groups):
            torch.manual_seed(seed)
            parts += [model(chunk) for chunk in chunks]
        joined = {k: torch.cat([p[k] for p in parts]) if parts[0][k].dim() else parts[0][k] for k in parts[0]}
        losses = both_losses(joined)
    (losses["info_nce"] + 0.5 * losses["siglip"]).backward()
    return {f"loss.{k}": v.detach() for k, v in losses.items()} | gradients(model)


def cached(model: nn.Module, chunks: list[dict], autocast: bool = False) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = backward_in_chunks(model, chunks, both_losses, WEIGHTS)
    return {f"loss.{k}": v for k, v in losses.items()} | gradients(model)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name.removeprefix("module."): whole(p.grad) for name, p in model.named_parameters()}


def assert_close(found: dict, wanted: dict, atol: float = 1e-12) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=0, atol=atol), f"{name}: {(found[name] - value).abs().max():.1e}"


def assert_close_in_bfloat16(found: dict, wanted: dict) -> None:
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=2**-6, atol=2**-9), name  # a weight's is rounded for each chunk


def test_chunks_give_the_gradient_of_the_whole_batch():
    wanted = all_at_once(towers(dropout=0.0), [[batch()]])
    for count in (1, 3, 5):
        assert_close(cached(towers(dropout=0.0), in_chunks(batch(), count)), wanted)


def test_dropout_is_replayed_and_chance_goes_on_as_after_one_pass():
    wanted = all_at_once(towers(), [in_chunks(batch())])
    after = torch.rand(3)
    found = cached(towers(), in_chunks(batch()))
    assert torch.equal(torch.rand(3), after)
    assert_close(found, wanted)
    without = all_at_once(towers(dropout=0.0), [in_chunks(batch())])
    assert abs(found["loss.siglip"] - without["loss.siglip"]) > 1e-3, "there was dropout"


def test_the_gradient_of_the_scale_does_not_grow_with_the_number_of_chunks():
    one, many = (cached(towers(dropout=0.0), in_chunks(batch(), count))["logit_scale"] for count in (1, 6))
    assert one.abs() > 1e-2
    assert many.item() == pytest.approx(one.item(), abs=1e-12)


def test_a_second_batch_adds_to_the_first():
    model = towers(dropout=0.0)
    cached(model, in_chunks(batch()))
    first = {name: 2 * gradient for name, gradient in gradients(model).items()}
    cached(model, in_chunks(batch()))
    assert_close(gradients(model), first)


def test_a_tower_without_gradient_stays_without():
    model = towers()
    model.text.requires_grad_(False)
    found = cached(model, in_chunks(batch()))
    wanted = all_at_once(towers(), [in_chunks(batch())])
    assert all(found[name] is None for name in found if name.startswith("text."))
    assert_close(*({k: v for k, v in of.items() if not k.startswith("text.")} for of in (found, wanted)))


def test_autocast_is_the_same_in_both_passes():
    given = single(batch())
    wanted = all_at_once(towers().float(), [in_chunks(given)], autocast=True)
    found = cached(towers().float(), in_chunks(given), autocast=True)
    assert_close_in_bfloat16(found, wanted)
    assert found["loss.siglip"] == wanted["loss.siglip"]
    assert found["loss.siglip"] != all_at_once(towers().float(), [in_chunks(given)])["loss.siglip"]


class Kept:
    """A tensor that autograd keeps, counted while it does."""

    now = most = 0

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor
        Kept.now += tensor.numel()
        Kept.most = max(Kept.most, Kept.now)
        weakref.finalize(self, Kept.forget, tensor.numel())

    @classmethod
    def forget(cls, elements: int) -> None:
        cls.now -= elements


def most_kept(run) -> int:
    Kept.now = Kept.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        run()
    return Kept.most


def test_activations_are_those_of_one_chunk():
    rows = {"pictures": (600, 16), "texts": (600, 12), "wrong": (600, 1, 12)}
    draw = {name: torch.randn(*size, dtype=torch.double) for name, size in rows.items()}
    given = draw | {"keys": torch.arange(1200).view(600, 2)}
    model, losses = towers(), functools.partial(both_losses, tile=64)
    at_once = most_kept(lambda: backward_in_chunks(model, [given], losses))
    chunked = most_kept(lambda: backward_in_chunks(model, in_chunks(given, 20), losses))
    assert chunked < at_once / 4


def test_no_chunk_is_refused():
    with pytest.raises(ValueError, match="give one chunk at least"):
        backward_in_chunks(towers(), [], both_losses)


# --------------------------------------------------------------------------------------------------- several processes
def exchanges(ddp: nn.parallel.DistributedDataParallel) -> list[int]:
    """Grows with each bucket of gradients that the processes average."""
    sent: list[int] = []

    def hook(group, bucket):
        sent.append(bucket.buffer().numel())
        return default_hooks.allreduce_hook(group, bucket)

    ddp.register_comm_hook(None, hook)
    return sent


def one_of(world: World, model: nn.Module, given: dict[str, torch.Tensor], autocast: bool = False) -> dict:
    torch.manual_seed(world.rank)
    losses = functools.partial(both_losses, tile=3, world=world)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = backward_in_chunks(model, in_chunks(given), losses, WEIGHTS)
    return {f"loss.{k}": world.mean(v) for k, v in found.items()} | gradients(model)


def on_each() -> dict:
    with processes(CPU) as world:
        group = weakref.ref(dist.group.WORLD)
        found = spread_over(world)
    assert group() is not None, "an error's traceback may still hold what is spread over it"
    return found


def spread_over(world: World) -> dict:
    from torch.distributed.fsdp import fully_shard

    given = batch(world.rows_of(ROWS))
    ddp = nn.parallel.DistributedDataParallel(towers())
    sent = exchanges(ddp)
    found = {"ddp": one_of(world, ddp, given), "sent": sum(sent)}
    if world.size == 2:
        sharded, rounded = towers(), towers().float()
        for part in (sharded.image, sharded.text, sharded, rounded.image, rounded.text, rounded):
            fully_shard(part)
        found |= {"fsdp": one_of(world, sharded, given), "bf16": one_of(world, rounded, single(given), True)}
    return found


@pytest.mark.parametrize("size", [2, 3])
def test_processes_give_the_gradient_of_one(size, tmp_path):
    """With dropout, negatives and duplicates; each process has its own chunks and its own chance."""
    parts = [in_chunks(batch(World(rank, size).rows_of(ROWS))) for rank in range(size)]
    wanted = all_at_once(towers(), parts)
    rounded = all_at_once(towers().float(), [[single(chunk) for chunk in chunks] for chunks in parts], autocast=True)
    for found in on(size, on_each, tmp_path):
        assert_close(found["ddp"], wanted)
        assert found["sent"] == sum(p.numel() for p in towers().parameters()), "each gradient is exchanged once"
        if size == 2:
            assert_close(found["fsdp"], wanted)
            assert_close_in_bfloat16(found["bf16"], rounded)
