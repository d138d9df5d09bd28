"""Several processes that train one model: who one is, what they exchange, and how the weights are laid over them.

`torchrun --nproc-per-node 8 ...` starts them; each makes its part of every batch. B rows of the batch, b = B / size of
them on each process. A loss is computed so that its mean over the processes is that of the whole batch: gradients are
averaged, so they are the whole batch's too.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class World:
    """Which of how many processes this is, and what they tell one another. Alone, nothing is sent or copied.

    Every method but `rows_of` is collective: all processes call it, in the same order.
    """

    rank: int = 0
    size: int = 1

    def rows_of(self, count: int) -> slice:
        """This process's rows of a batch of `count`: neighbouring ones, as many as any other's."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather(self, x: Tensor, gradient: bool = True) -> Tensor:
        """(b, ...) of each process -> (B, ...), by rank. The gradient of a row is what all processes ask of it.

        gradient=False: each process sees the others' rows as constants, as `all_gather` leaves them.
        """
        if self.size == 1:
            return x
        if gradient and x.requires_grad:
            return GatherRows.apply(x)
        if not x.requires_grad:
            return everyones(x)
        rows = list(everyones(x).chunk(self.size))
        rows[self.rank] = x
        return torch.cat(rows)

    @torch.no_grad()
    def fetch(self, x: Tensor, wanted: Tensor) -> Tensor:
        """Rows `wanted` (n,), numbered through the whole batch, of the x (b, ...) that each process holds a part of.

        Only what is asked for travels: the numbers there, the rows back. No gradient passes.
        """
        if self.size == 1:
            return x.index_select(0, wanted)
        owner = wanted // len(x)
        order = torch.argsort(owner, stable=True)
        asked = torch.bincount(owner, minlength=self.size)
        given = torch.empty_like(asked)
        dist.all_to_all_single(given, asked)
        from_me, from_them = given.tolist(), asked.tolist()
        requests = wanted.new_empty(sum(from_me))
        dist.all_to_all_single(requests, (wanted % len(x))[order], from_me, from_them)
        answers = x.new_empty(len(wanted), *x.shape[1:])
        dist.all_to_all_single(answers, x.index_select(0, requests), from_them, from_me)
        return answers.index_select(0, torch.argsort(order))

    def share(self, loss: Tensor, count: Tensor | int) -> Tensor:
        """A loss that is a mean over `count` things of this process, scaled so that the mean over the processes is the
        mean over all things."""
        if self.size == 1:
            return loss
        own = torch.as_tensor(count, dtype=torch.float64, device=collective_device())
        total = own.clone()
        dist.all_reduce(total)
        return loss * (own * self.size / total.clamp(min=1)).to(loss)

    @torch.no_grad()
    def mean(self, x: Tensor) -> Tensor:
        """The mean of x over the processes, on each of them."""
        x = x.detach()
        if self.size > 1:
            x = x.clone()
            dist.all_reduce(x)
            x /= self.size
        return x

    def each(self, numbers: Sequence[int]) -> list[tuple[int, ...]]:
        """The numbers of every process, by rank. As many numbers on each."""
        if self.size == 1:
            return [tuple(numbers)]
        own = torch.tensor(numbers, device=collective_device())
        return [tuple(row) for row in everyones(own[None]).tolist()]

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=collective_device())
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def tell(self, thing: Any) -> Any:
        """What process 0 has, on all of them. The thing: whatever pickles."""
        if self.size == 1:
            return thing
        box = [thing]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def hear(self, thing: Any) -> list[Any]:
        """What every process has, by rank, on all of them. The thing: whatever pickles."""
        if self.size == 1:
            return [thing]
        things: list[Any] = [None] * self.size
        dist.all_gather_object(things, thing)
        return things

    def agree(self, error: Exception | None = None) -> None:
        """Goes on where no process has an error. Otherwise each raises: its own, or `FailedElsewhere` with theirs."""
        if self.largest(int(error is not None)):
            errors = self.hear(None if error is None else described(error))
            if error is None:
                raise FailedElsewhere("; ".join(f"process {rank} of {self.size} failed: {text}"
                                                for rank, text in enumerate(errors) if text))  # fmt: skip
        if error is not None:
            raise error

    @contextlib.contextmanager
    def all_through(self) -> Iterator[None]:
        """A block that each process goes through by itself; nothing is exchanged in it. Where it fails on any of them,
        all raise at its end, and none waits."""
        error = None
        try:
            yield
        except Exception as failure:
            error = failure
        self.agree(error)

    def together(self, items: Iterable[Any]) -> Iterator[Any]:
        """Each process's items in step. Where making one fails on any process, all of them raise, and none waits."""
        each = iter(items)
        while True:
            with self.all_through():
                item = next(each, None)
            if item is None:
                return
            yield item

    def by_first(self, work: Callable[[], Any]) -> Any:
        """What `work` returns on process 0, on all of them. Where it fails there, all raise."""
        with self.all_through():
            made = work() if self.rank == 0 else None
        return self.tell(made)

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()

    @contextlib.contextmanager
    def one_first(self) -> Iterator[None]:
        """Process 0 goes through the block before the others, which find what it has made. Where it fails on any of
        them, all raise."""
        if self.rank > 0:
            self.agree()  # process 0 is through
        with self.all_through():
            yield
        if self.rank == 0:
            self.agree()  # and the others


ALONE = World()


class FailedElsewhere(RuntimeError):
    """Another process of the run has failed; the message says which and how."""


def described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def everyones(x: Tensor) -> Tensor:
    """(b, ...) of each process -> (B, ...), by rank, without a gradient."""
    size = dist.get_world_size()
    rows = x.new_empty(size * len(x), *x.shape[1:])
    dist.all_gather(list(rows.chunk(size)), x.detach().contiguous())
    return rows


def reduce_rows(x: Tensor, world: World) -> Tensor:
    """(B, ...) of each process -> (b, ...): the sum over the processes, of which each gets its own rows."""
    if world.size == 1:
        return x
    parts = [part.contiguous() for part in x.chunk(world.size)]
    own = torch.empty_like(parts[0])
    dist.reduce_scatter(own, parts)
    return own


class GatherRows(torch.autograd.Function):
    """all_gather whose backward sums every process's gradient of a row at the process that holds it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return everyones(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return reduce_rows(gradients[0], World(dist.get_rank(), dist.get_world_size()))


# ---------------------------------------------------------------------------------------------------- start and end
@contextlib.contextmanager
def processes(device: torch.device, run: Path | None = None) -> Iterator[World]:
    """The processes of this run, connected until the end of the block: those that torchrun started, or this one.

    run: a folder that all of them see, where the first to fail leaves a note, so that the others, which lose their
    connection to it, can say why. A process group that the caller has made is used and left as found.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size())
        return
    if started == 1:
        yield World()
        return
    if device.type == "mps":
        raise ValueError("several processes can't share device=mps; use device=cpu, or start one process")
    note = None if run is None else run / "failed.txt"
    if note is not None and int(os.environ.get("RANK", "0")) == 0:
        note.unlink(missing_ok=True)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    world = World(dist.get_rank(), dist.get_world_size())
    try:
        yield world
    except Exception as error:
        explain(error, world, note)
        raise
    finally:
        # What still holds a DistributedDataParallel, as an error's traceback does, must not be the last to hold the
        # group: its end would wait, with the interpreter's lock, for threads of the group that wait for that lock.
        ENDED[:] = [dist.group.WORLD]
        dist.destroy_process_group()


ENDED: list[Any] = []  # the last group of processes


def explain(error: Exception, world: World, note: Path | None) -> None:
    """Adds to an error which process it ended, and which process failed first where this one only lost its connection.

    Otherwise it is noted down for the others.
    """
    lost = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
    first = ""
    if note is not None and lost and note.is_file():
        first = f" {note.read_text()}"
    elif note is not None and not lost and not isinstance(error, FailedElsewhere) and note.parent.is_dir():
        with contextlib.suppress(FileExistsError), note.open("x") as file:
            file.write(f"Process {world.rank} of {world.size} failed first: {described(error)}")
    error.add_note(
        f"This was process {world.rank} of {world.size}. When one of them ends, the others lose their connection "
        f"to it and end too{':' if first else ': look for the first error.'}{first} The run goes on from its last "
        "checkpoint with --resume."
    )


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process: each process of a machine takes the one of its number there."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def collective_device() -> torch.device:
    return torch.device("cuda" if "nccl" in dist.get_backend_config() else "cpu")


# ------------------------------------------------------------------------------------- the weights over the processes
def shard(step: nn.Module, units: Iterable[nn.Module], device: torch.device) -> None:
    """FSDP2: each process keeps a slice of every weight, and gathers the rest when a layer needs it.

    step: the module whose forward runs a whole training step. units: its parts that are gathered one at a time, when
    each is run. Everything else is gathered once, at the start.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # It warns of changes in place to what a unit returns, whether there are any or not. There are none.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for unit in units:
        fully_shard(unit, mesh=mesh)
    fully_shard(step, mesh=mesh)


def is_sharded(tensor: object) -> "TypeGuard[DTensor]":
    """Whether it is a DTensor. Their module takes as long to import as torch, so a run that has none never asks it."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies on this process; shares its memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(state: Any, keep: bool = True) -> Any:
    """A state dict with its sharded tensors put together, on the CPU; the others are passed on as they are.

    keep: False leaves None in place of each tensor that was sharded, for the processes that only help to gather.
    """
    if is_sharded(state):
        full = state.full_tensor()
        return full.cpu() if keep else None
    if isinstance(state, dict):
        return {key: whole(value, keep) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole(value, keep) for value in state)
    return state


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of `like`, sharded as `like` is."""
    tensor = tensor.to(like.device, like.dtype)
    if is_sharded(like):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
    return tensor


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Loads what `optimizer.state_dict()` was as a whole, whatever layout it had and this one has."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        i: {k: laid_out(v, parameters[i]) if v.shape == parameters[i].shape else v for k, v in of_one.items()}
        for i, of_one in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": moments})


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Scales all gradients so that their norm over all processes is `largest` at most; returns the norm it was."""
    parameters = list(parameters)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if is_sharded(norm):
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm
