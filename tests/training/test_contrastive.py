"""The tiled losses against the naive formulas, in double precision; and several processes against one."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gloo import on
from omma.training.contrastive import info_nce, siglip
from omma.training.distributed import World, processes
from omma.training.objectives import itc_loss

CPU = torch.device("cpu")
B, E, K = 12, 6, 3
DUPLICATES = torch.tensor([[i % 9, i if i != 4 else 100 + i % 7] for i in range(B)]).index_put(
    (torch.tensor([5, 10]), torch.tensor([1, 1])), torch.tensor(77)
)  # pictures 0 to 2 occur twice, the text of row 5 again in row 10


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double), dim=-1)


def inputs(extra: bool, rows: slice = slice(None)) -> dict[str, torch.Tensor | None]:
    """The batch, or some rows of it; extra: with duplicates and negatives, of which some are none."""
    scale, bias = torch.tensor([7.0], dtype=torch.double), torch.tensor([-3.0], dtype=torch.double)
    found: dict = {"image_embeds": unit(B, E)[rows].clone(), "text_embeds": unit(B, E, seed=1)[rows].clone()}
    found |= {"logit_scale": scale, "logit_bias": bias, "keys": None, "negatives": None, "negatives_mask": None}
    if extra:
        there = torch.arange(B * K).view(B, K) % 4 != 1
        found |= {"keys": DUPLICATES[rows], "negatives_mask": there[rows]}
        found["negatives"] = unit(B, K, E, seed=2)[rows].clone()
    return {k: v.requires_grad_() if v is not None and v.is_floating_point() else v for k, v in found.items()}


def cast(batch: dict, vectors: torch.dtype, numbers: torch.dtype) -> dict[str, torch.Tensor | None]:
    kind = lambda name: numbers if name in ("logit_scale", "logit_bias") else vectors
    return {k: v.detach().to(kind(k)).requires_grad_() if v is not None and v.is_floating_point() else v
            for k, v in batch.items()}  # fmt: skip


def same(keys: torch.Tensor) -> torch.Tensor:
    """Written out: which other rows show the same picture or say the same."""
    return torch.tensor([[i != j and bool((keys[i] == keys[j]).any()) for j in range(len(keys))]
                         for i in range(len(keys))])  # fmt: skip


def naive_info_nce(image_embeds, text_embeds, logit_scale, *, keys=None, negatives=None, negatives_mask=None):
    logits = logit_scale * image_embeds @ text_embeds.T
    if keys is not None:
        logits = logits.masked_fill(same(keys), -torch.inf)
    to_texts = logits
    if negatives is not None:
        further = logit_scale * torch.einsum("be,bke->bk", image_embeds, negatives)
        to_texts = torch.cat((logits, further.masked_fill(~negatives_mask, -torch.inf)), dim=1)
    labels = torch.arange(len(logits))
    return (F.cross_entropy(to_texts, labels) + F.cross_entropy(logits.T, labels)) / 2


def naive_siglip(image_embeds, text_embeds, logit_scale, logit_bias, *, keys=None, negatives=None, negatives_mask=None):
    b, loss = len(image_embeds), 0.0
    together = torch.zeros(b, b, dtype=torch.bool) if keys is None else same(keys)
    for i in range(b):
        for j in range(b):
            z = 1 if i == j else -1
            if not together[i, j]:
                loss -= F.logsigmoid(z * (logit_scale * image_embeds[i] @ text_embeds[j] + logit_bias)) / b
        for k in range(0 if negatives is None else negatives.shape[1]):
            if negatives_mask[i, k]:
                loss -= F.logsigmoid(-(logit_scale * image_embeds[i] @ negatives[i, k] + logit_bias)) / b
    return loss.squeeze()


LOSSES = {"info_nce": (info_nce, naive_info_nce), "siglip": (siglip, naive_siglip)}


def found_by(loss, batch: dict, autocast: bool = False, **options) -> dict[str, torch.Tensor]:
    """The loss and the gradient of all it depends on."""
    if loss in (info_nce, naive_info_nce):
        batch = {k: v for k, v in batch.items() if k != "logit_bias"}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(**batch, **options)
    value.backward()
    of = {k: v.grad for k, v in batch.items() if v is not None and v.is_floating_point()}
    return {"loss": value.detach()} | of


def assert_equal(found: dict, wanted: dict, atol: float = 1e-12) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=0, atol=atol), f"{name}: {(found[name] - value).abs().max():.1e}"


# ------------------------------------------------------------------------------------------------ against the formula
@pytest.mark.parametrize("tile", [5, 12, None])
@pytest.mark.parametrize("extra", [False, True], ids=["plain", "duplicates and negatives"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_all_gradients_are_those_of_the_naive_formula(name, extra, tile):
    tiled, naive = LOSSES[name]
    wanted = found_by(naive, inputs(extra))
    assert_equal(found_by(tiled, inputs(extra), tile=tile), wanted)
    assert wanted["logit_scale"].abs() > 1e-3
    if extra:
        assert abs(wanted["loss"] - found_by(naive, inputs(False))["loss"]) > 1e-3, "duplicates and negatives matter"


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    loss = LOSSES[name][0]
    batch = {k: v for k, v in inputs(True).items() if name == "siglip" or k != "logit_bias"}
    floating = [k for k, v in batch.items() if v is not None and v.is_floating_point()]
    function = lambda *values: loss(**(batch | dict(zip(floating, values, strict=True))), tile=5)
    assert torch.autograd.gradcheck(function, [batch[k] for k in floating], fast_mode=True)


def test_losses_of_perfect_pairs_by_arithmetic():
    eye = torch.eye(2)
    assert info_nce(eye, eye, 1.0).item() == pytest.approx(math.log(1 + math.exp(-1)))
    right, wrong = math.log(1 + math.exp(-(5 - 2))), math.log(1 + math.exp(-2))
    assert siglip(eye, eye, 5.0, -2.0).item() == pytest.approx(right + wrong)


def test_info_nce_is_itc_loss():
    batch = inputs(True)
    image, text, scale, keys = (batch[k] for k in ("image_embeds", "text_embeds", "logit_scale", "keys"))
    wanted = itc_loss(image, text, scale, same(keys)).item()
    assert info_nce(image, text, scale, keys=keys).item() == pytest.approx(wanted)


def test_a_batch_of_one_picture_has_nothing_to_tell_it_from():
    batch = inputs(False)
    alike = torch.zeros(B, 2, dtype=torch.long)
    assert info_nce(batch["image_embeds"], batch["text_embeds"], 7.0, keys=alike).item() == pytest.approx(0, abs=1e-12)
    own = 7.0 * (batch["image_embeds"] * batch["text_embeds"]).sum(1) - 3.0
    assert siglip(batch["image_embeds"], batch["text_embeds"], 7.0, -3.0, keys=alike).item() == pytest.approx(
        -F.logsigmoid(own).mean().item()
    )


def test_a_scale_of_a_thousand_neither_overflows_nor_vanishes():
    for name, (tiled, naive) in LOSSES.items():
        batch = cast(inputs(False) | {"logit_scale": torch.tensor(1000.0)}, torch.float, torch.float)
        double = cast(batch, torch.double, torch.double)
        found, wanted = found_by(tiled, batch, tile=5), found_by(naive, double)
        for key, value in wanted.items():
            assert torch.allclose(found[key].double(), value, rtol=1e-4, atol=1e-4), f"{name} {key}"


def test_siglip_is_the_same_without_a_gradient():
    with torch.no_grad():
        value = siglip(**inputs(True), tile=5)
    assert not value.requires_grad
    assert value.item() == found_by(siglip, inputs(True), tile=5)["loss"].item()


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_rounds_the_vectors_and_no_logit(name):
    tiled, naive = LOSSES[name]
    given = cast(inputs(True), torch.bfloat16, torch.float)
    wanted = found_by(naive, cast(given, torch.double, torch.double))
    found = found_by(tiled, given, autocast=True, tile=5)
    assert found["loss"].dtype == torch.float
    assert found["loss"].item() == pytest.approx(wanted["loss"].item(), rel=1e-6)
    assert found["logit_scale"].item() == pytest.approx(wanted["logit_scale"].item(), rel=1e-5)
    for key in ("image_embeds", "text_embeds", "negatives"):
        error = (found[key].double() - wanted[key]).norm() / wanted[key].norm()
        assert error < 2**-8, f"{key}: a gradient in bfloat16 is off by one rounding, not by {error:.1e}"


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("name", LOSSES)
def test_no_tensor_is_larger_than_the_vectors_or_a_tile(name):
    rows, width, tile = 256, 8, 48
    keys = torch.arange(2 * rows).view(rows, 2)
    keys[7] = keys[200]
    bias = () if name == "info_nce" else (torch.tensor(-3.0),)
    tiled = LOSSES[name][0]
    image, text = (unit(rows, width, seed=s).float().requires_grad_() for s in (0, 1))
    with Largest() as seen:
        tiled(image, text, torch.tensor(7.0), *bias, keys=keys, tile=tile).backward()
    assert seen.elements == tile * tile
    with Largest() as seen:
        naive_info_nce(image, text, torch.tensor(7.0)).backward()
    assert seen.elements == rows * rows


# ------------------------------------------------------------------------------------------------------ what is refused
def test_what_does_not_fit_is_named():
    image, text, wrong = unit(4, E), unit(4, E), unit(4, K, E)
    cases: list = [
        ((image, text), {"keys": DUPLICATES[:3]}, "3 keys for 4 pictures; give one row"),
        ((image, text[:3]), {}, "4 pictures and 3 texts don't pair up"),
        ((image[:0], text[:0]), {}, "0 pictures and 0 texts"),
        ((image, text[:, :2]), {}, r"pictures \(4, 6\) and texts \(4, 2\) are not vectors of one space"),
        ((image, text), {"negatives": wrong[:2]}, r"they must be \(4, K, 6\)"),
        ((image, text), {"negatives": wrong, "negatives_mask": torch.ones(4, 1)}, r"it must be \(4, 3\)"),
    ]
    for embeds, options, message in cases:
        for loss in (info_nce, functools.partial(siglip, logit_bias=0.0)):
            with pytest.raises(ValueError, match=message):
                loss(*embeds, logit_scale=1.0, **options)


# --------------------------------------------------------------------------------------------------- several processes
def spread_over(world: World) -> dict:
    """Loss and gradients of each loss from this process's rows, as the mean over the processes."""
    found = {}
    rows = world.rows_of(B)
    for name, (tiled, _) in LOSSES.items():
        for extra in (False, True):
            own = found_by(tiled, inputs(extra, rows), tile=3, world=world)
            whole = lambda v: world.gather(v) / world.size if v.dim() > 1 else world.mean(v)
            found[name, extra] = {k: whole(v) for k, v in own.items()}
    return found


def refusals(world: World) -> list[str]:
    """What each process says when the last one has a row, a text or the keys too few."""
    found, last = [], world.rank == world.size - 1
    keys = None if last else DUPLICATES[:4]
    for pictures, texts, numbered in ((4 - last, 4 - last, None), (4, 4 - last, None), (4, 4, keys)):
        for loss in (info_nce, functools.partial(siglip, logit_bias=0.0)):
            with pytest.raises(ValueError) as error:
                loss(unit(pictures, E), unit(texts, E), logit_scale=1.0, keys=numbered, world=world)
            found.append(str(error.value))
    return found


def on_each() -> tuple[dict, list[str]]:
    with processes(CPU) as world:
        return spread_over(world), refusals(world)


@pytest.mark.parametrize("size", [2, 3])
def test_processes_give_loss_and_gradients_of_one(size, tmp_path):
    wanted = {(name, extra): found_by(tiled, inputs(extra), tile=5)
              for name, (tiled, _) in LOSSES.items() for extra in (False, True)}  # fmt: skip
    for found, refused in on(size, on_each, tmp_path):
        for case, value in wanted.items():
            assert_equal(found[case], value)
        counts = ", ".join(["4"] * (size - 1) + ["3"])
        assert all(f"the processes hold {counts} rows of the batch" in message for message in refused[:2])
        assert all(f"4 pictures and 3 texts on process {size - 1} don't pair up" in message for message in refused[2:4])
        assert all(f"process {size - 1} has no keys, but others have" in message for message in refused[4:])
