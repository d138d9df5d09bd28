"""The benchmarks that `ingest_items` reads, by the name of their format. A reader is a function of `files.Asked`."""

from collections.abc import Callable, Iterator
from typing import Any

from omma.data.benchmarks.choices import choice, mathvista, mmbench, mmmu, seedbench
from omma.data.benchmarks.files import Asked
from omma.data.benchmarks.hard_negatives import aro, naturalbench, sugarcrepe, winoground
from omma.data.benchmarks.mme import mme
from omma.data.benchmarks.mmvp import mmvp, mmvp_vlm
from omma.data.benchmarks.pope import pope
from omma.data.benchmarks.short_answers import chartqa, docvqa, gqa, infovqa, textvqa

BENCHMARKS: dict[str, Callable[[Asked], Iterator[dict[str, Any]]]] = {
    "mmvp": mmvp,
    "mmvp-vlm": mmvp_vlm,
    "pope": pope,
    "mme": mme,
    "sugarcrepe": sugarcrepe,
    "aro": aro,
    "winoground": winoground,
    "naturalbench": naturalbench,
    "mmbench": mmbench,
    "mmmu": mmmu,
    "seedbench": seedbench,
    "mathvista": mathvista,
    "choice": choice,
    "textvqa": textvqa,
    "gqa": gqa,
    "docvqa": docvqa,
    "infovqa": infovqa,
    "chartqa": chartqa,
}
