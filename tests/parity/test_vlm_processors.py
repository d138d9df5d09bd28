"""Pictures and frames without torchvision against transformers' processors with it, where it is installed.

They run in a process of their own, since a torchvision built for another torch is made usable there: what it lacks
(nms) no processor calls.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import omma

COMPARE = """
import importlib, json, sys
from pathlib import Path
import torch
try:
    import torchvision
except Exception:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
import numpy as np
import omma
from PIL import Image
from tiny_vlm_folders import PARTS, save
from transformers import AutoImageProcessor, AutoProcessor

rng = np.random.default_rng(0)
noise = lambda width, height: Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
pictures, found = [[noise(40, 30), noise(20, 60)], [noise(64, 33)]], {}
for name in PARTS:
    folder = save(name, Path(sys.argv[1]) / name)
    try:
        own = AutoProcessor.from_pretrained(folder)
    except ImportError as error:
        assert "num2words" in str(error), error
        continue
    own.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    vlm = omma.load_vlm(folder, device="cpu", precision="fp32")
    side = 32 if name == "internvl" else 24
    clips = [[noise(side, side) for _ in range(4)] for _ in range(2)]
    for kind, shown in {"image": pictures, "video": clips}.items():
        if kind == "video" and not vlm.takes_video:
            continue
        place = lambda seen: [{"type": "video", "video": seen}] if kind == "video" else [
            {"type": "image", "image": image} for image in seen]
        talks = [[{"role": "user", "content": [*place(seen), {"type": "text", "text": "What?"}]}] for seen in shown]
        told = {"padding": True, "padding_side": "left"}
        if kind == "video" and name in ("qwen2_5_vl", "qwen3_vl"):
            times = {"total_num_frames": 4, "fps": 1.0, "duration": 4.0, "frames_indices": [0, 1, 2, 3]}
            told["video_metadata"] = [times] * 2
        theirs = dict(own.apply_chat_template(talks, add_generation_prompt=True, tokenize=True, return_dict=True,
                                              return_tensors="pt", processor_kwargs=told))
        if "pixel_values_images" in theirs:
            theirs["pixel_values"] = theirs.pop("pixel_values_images")
        ours = vlm.prompts(shown, ["What?"] * 2, video=kind == "video")
        assert set(ours) == set(theirs), (name, kind)
        assert all(value.shape == theirs[key].shape for key, value in ours.items()), (name, kind)
        found[f"{name} {kind}"] = max(float((value - theirs[key]).abs().max()) for key, value in ours.items())
print(json.dumps(found))
"""


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_tensors_are_those_of_every_familys_own_processor(tmp_path):
    paths = [str(Path(omma.__file__).parents[1]), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run([sys.executable, "-c", COMPARE, str(tmp_path)], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    pictures = {name: off for name, off in found.items() if name.endswith("image")}
    assert len(pictures) >= 9
    assert set(pictures.values()) == {0.0}
    videos = {name: off for name, off in found.items() if name.endswith("video")}
    assert len(videos) >= 6
    # frames of Qwen3-VL are scaled here, by torchvision there, which rounds grey levels (2/255) in its own way
    assert all(off <= (2.1 / 255 if name.startswith("qwen3") else 1e-6) for name, off in videos.items()), videos
