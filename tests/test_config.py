import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from omma.config import apply, from_dict, keys, to_dict


@dataclass(frozen=True, kw_only=True)
class Tower:
    hidden_size: int = 64
    num_heads: int = 4
    dropout: float = 0.0

    def __post_init__(self):
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} is not a multiple of num_heads={self.num_heads}")


@dataclass(frozen=True, kw_only=True)
class OtherTower:
    width: int = 8


@dataclass(frozen=True, kw_only=True)
class Run:
    data: Path
    name: str = "run"
    steps: int = 100
    lr: float = 1e-3
    amp: bool = False
    init: Path | None = None
    clip: float | None = 1.0
    note: str | None = None
    objective: Literal["itc", "siglip"] = "itc"
    betas: tuple[float, float] = (0.9, 0.95)
    layers: tuple[int, ...] = (1, 2)
    tags: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=lambda: {"itc": 1.0, "itm": 1.0})
    model: Tower = field(default_factory=Tower)
    teacher: Tower | None = None
    eye: Tower | OtherTower = field(default_factory=Tower)


RUN = Run(data=Path("pictures"))


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("steps=1_000", "steps", 1000),
        ("lr=3e-4", "lr", 3e-4),
        ("lr=1", "lr", 1.0),
        ("amp=true", "amp", True),
        ("amp=False", "amp", False),
        ("name=a=b", "name", "a=b"),
        ("name=none", "name", "none"),
        ("note=none", "note", None),
        ("note=42", "note", "42"),
        ("clip=none", "clip", None),
        ("clip=2", "clip", 2.0),
        ("init=runs/a", "init", Path("runs/a")),
        ("objective=siglip", "objective", "siglip"),
        ("betas=0.9,0.98", "betas", (0.9, 0.98)),
        ("layers=4, 5, 6", "layers", (4, 5, 6)),
        ("layers=", "layers", ()),
        ("tags=a,b", "tags", ["a", "b"]),
        ("weights.itc=0.5", "weights", {"itc": 0.5, "itm": 1.0}),
        ("model.hidden_size=192", "model", Tower(hidden_size=192)),
        ("teacher.hidden_size=32", "teacher", Tower(hidden_size=32)),
    ],
)
def test_a_value_is_read_as_its_annotation_says(override, key, value):
    changed = getattr(apply(RUN, [override]), key)
    assert changed == value
    assert type(changed) is type(value)


def test_what_is_not_named_stays_and_the_original_is_untouched():
    changed = apply(RUN, ["model.num_heads=8", "steps=5"])
    assert changed == dataclasses.replace(RUN, steps=5, model=Tower(num_heads=8))
    assert RUN.steps == 100


def test_changes_to_one_dataclass_happen_at_once():
    # 96 is no multiple of 4 heads times 5, and 5 heads do not divide 64: each change alone is refused
    assert apply(RUN, ["model.num_heads=5", "model.hidden_size=95"]).model == Tower(hidden_size=95, num_heads=5)
    with pytest.raises(ValueError, match="hidden_size=64 is not a multiple of num_heads=5"):
        apply(RUN, ["model.num_heads=5"])


def test_overrides_win_over_the_toml_file(tmp_path):
    (tmp_path / "run.toml").write_text("steps = 7\nlr = 1\nbetas = [0.8, 0.9]\n[model]\nhidden_size = 32\n")
    changed = apply(RUN, ["steps=9", "model.num_heads=2"], toml=tmp_path / "run.toml")
    assert (changed.steps, changed.lr, changed.betas) == (9, 1.0, (0.8, 0.9))
    assert changed.model == Tower(hidden_size=32, num_heads=2)


def test_a_mapping_may_be_nested_or_dotted():
    assert apply(RUN, {"model": {"hidden_size": 32}, "lr": 0.1}) == apply(RUN, {"model.hidden_size": 32, "lr": 0.1})


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stesp=3", ["unknown key 'stesp'", "nearest: steps", "objective"]),
        ("hidden_size=3", ["unknown key 'hidden_size'", "model.hidden_size"]),
        ("model.hiden_size=3", ["unknown key 'model.hiden_size'", "model.hidden_size", "model.dropout"]),
        ("steps=many", ["steps=many is not an int"]),
        ("steps=1.5", ["steps=1.5 is not an int"]),
        ("lr=fast", ["lr=fast is not a float"]),
        ("amp=1", ["amp=1 is not a bool", "true or false"]),
        ("clip=x", ["clip=x is not a float (or none)"]),
        ("objective=clip", ["objective=clip is not one of itc, siglip"]),
        ("betas=0.9", ["betas has 1 values (0.9)", "wants 2"]),
        ("layers=1,b", ["layers=b is not an int"]),
        ("model=big", ["model is 'big'", "Tower"]),
        ("weights=3", ["weights=3 is not dict", "weights.NAME=VALUE"]),
        ("weights.itc=x", ["weights.itc=x is not a float"]),
        ("steps", ["'steps' is not key=value", "name=run"]),
    ],
)
def test_a_mistake_names_the_value_and_what_would_do(override, words):
    with pytest.raises(ValueError) as caught:
        apply(RUN, [override])
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("values", [{"steps": 1.0}, {"steps": True}, {"name": 3}, {"lr": "x"}, {"amp": 1}])
def test_a_typed_value_of_the_wrong_type_is_not_converted_silently(values):
    with pytest.raises(ValueError, match=f"^{next(iter(values))}="):
        apply(RUN, values)


def test_a_file_that_is_missing_or_not_toml_is_named(tmp_path):
    with pytest.raises(ValueError, match="no config file at"):
        apply(RUN, toml=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("steps: 3")
    with pytest.raises(ValueError, match=r"bad\.toml is not TOML"):
        apply(RUN, toml=tmp_path / "bad.toml")


def test_a_config_survives_json():
    run = apply(RUN, ["init=a/b", "teacher.hidden_size=32", "tags=x,y", "layers=3", "clip=none"])
    run = dataclasses.replace(run, eye=OtherTower(width=3))
    stored = json.loads(json.dumps(to_dict(run)))
    assert stored["eye"] == {"type": "OtherTower", "width": 3}
    assert stored["betas"] == [0.9, 0.95]
    assert from_dict(Run, stored) == run


def test_a_stored_config_with_a_foreign_missing_or_wrong_key_is_refused():
    stored = to_dict(RUN)
    with pytest.raises(ValueError, match=r"unknown key 'stepz' of Run; the nearest: steps"):
        from_dict(Run, {**stored, "stepz": 1})
    with pytest.raises(ValueError, match=r"unknown key 'model\.depth' of Tower"):
        from_dict(Run, {**stored, "model": {"depth": 2}})
    with pytest.raises(ValueError, match="Run lacks data"):
        from_dict(Run, {key: value for key, value in stored.items() if key != "data"})
    with pytest.raises(ValueError, match=r"eye\.type is 'Foot'; it says which of Tower, OtherTower"):
        from_dict(Run, {**stored, "eye": {"type": "Foot"}})


def test_every_key_that_is_listed_can_be_set():
    for key in keys(RUN):
        parent, _, name = key.rpartition(".")
        holder = getattr(RUN, parent) if parent else RUN
        value = holder[name] if isinstance(holder, dict) else getattr(holder, name)
        assert apply(RUN, {key: value}) == RUN
