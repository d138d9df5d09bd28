"""Methods that ask the decoder how alike visual tokens are: to each other (ToMe), or to a few pivots (DART).

B rows, N places of the sequence, V visual tokens, D width.
"""

from omma.sparse.by_vision import Visual
from omma.sparse.pick import dart_select
from omma.sparse.reduce import merge_to
from omma.sparse.score import top
from omma.sparse.stage import Reduction, Stage, picked, places


def tome(stage: Stage, *, proportional: bool = True) -> Reduction:
    """Kept: half of the tokens, each most alike pair merged into one, again and again until the budget (Bolya et al.
    2023, arXiv 2210.09461), in one go on what the decoder is given.

    proportional: what stands for n tokens weighs n times as much in the decoder's attention (log n on its logits).
    Published is ToMe for a classifying ViT; the merges within a VLM's tower and here aren't its authors'.
    """
    visual = Visual(stage)
    sizes = None if stage.sizes is None else stage.sizes.gather(1, visual.at)
    x, size, _ = merge_to(visual.hidden, visual.hidden, visual.want, visual.ok, visual.must, sizes)
    kept = top(visual.first(size), visual.want, visual.ok & (size > 0))
    scores = visual.back(size)
    hidden = visual.placed(x)
    if not proportional:
        return Reduction(kept=visual.back(kept), hidden=hidden, scores=scores)
    return Reduction(kept=visual.back(kept), hidden=hidden, scores=scores, sizes=visual.back(size.clamp(min=1.0), 1.0))


def dart(stage: Stage, *, pivots: tuple[int, int] = (4, 4)) -> Reduction:
    """Kept: tokens least like a few visual and text pivots, those with the largest keys (Wen et al. 2025, arXiv
    2502.11494).

    As in its code: L1 norms of the keys of the layer just run, cosines of the states behind the decoder's last norm,
    text behind the picture. Exactly the budget, where the published code keeps pivots + 8 int(budget / 8).
    """
    visual = Visual(stage)
    at, text_ok = places(stage.text)
    x = stage.norm(stage.hidden)
    norms = stage.keys.float().abs().sum((1, 3))  # (B, N)
    kept = dart_select(
        picked(x, visual.at),
        picked(x, at),
        norms.gather(1, visual.at),
        norms.gather(1, at),
        visual.want,
        visual.ok,
        text_ok,
        pivots=pivots,
    )
    return Reduction(kept=visual.back(kept))
