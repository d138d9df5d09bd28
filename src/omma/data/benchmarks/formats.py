"""The benchmarks that `ingest_items` reads, by the name of their format. A reader is a function of `files.Asked`."""

from collections.abc import Callable, Iterator
from typing import Any

from omma.data.benchmarks.captions import chair, karpathy, karpathy_5
from omma.data.benchmarks.choices import choice, mathvista, mmbench, mmmu, seedbench
from omma.data.benchmarks.files import Asked
from omma.data.benchmarks.hard_negatives import aro, naturalbench, sugarcrepe, winoground
from omma.data.benchmarks.judged import llava_bench, mm_vet
from omma.data.benchmarks.mme import mme
from omma.data.benchmarks.mmvp import mmvp, mmvp_vlm
from omma.data.benchmarks.nlvr import nlvr
from omma.data.benchmarks.pope import pope
from omma.data.benchmarks.short_answers import chartqa, docvqa, gqa, infovqa, textvqa
from omma.data.benchmarks.videos import msrvtt_qa, msvd_qa, tgif_qa, video_mme

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
    "tgif-qa": tgif_qa,
    "msvd-qa": msvd_qa,
    "msrvtt-qa": msrvtt_qa,
    "video-mme": video_mme,
    "nlvr": nlvr,
    "karpathy": karpathy,
    "karpathy-5": karpathy_5,
    "chair": chair,
    "mm-vet": mm_vet,
    "llava-bench": llava_bench,
}
