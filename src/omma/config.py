"""Typed configuration: a dataclass, changed by a TOML file and by key=value; a misspelt key names the nearest ones.

    config = apply(TrainConfig(), ["steps=200", "model.hidden_size=192", "lr=1e-3"], toml="my-run.toml")
    json.dumps(to_dict(config)); from_dict(TrainConfig, to_dict(config)) == config

The annotations of the dataclass are the schema: int, float, bool, str, Path, Literal, tuple, list, dict, X | None and
nested dataclasses. Nothing else parses a setting, so the command line, a TOML file and a stored run all agree on what a
value means.
"""

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

Config = TypeVar("Config")

LIST_KEYS_UP_TO = 24  # a longer list of keys hides the near miss the reader looks for


def apply(config: Config, overrides: Sequence[str] | Mapping[str, Any] = (), toml: str | Path | None = None) -> Config:
    """A copy of `config` with the values of the TOML file, then those of `overrides`, set.

    overrides: "key=value" strings, or a mapping; a dotted key reaches into a nested dataclass or dict, as in
    "model.hidden_size=192". All changes to one dataclass happen at once, so its __post_init__ never sees a half-changed
    config. A config with a field `given` keeps there, dotted, the keys that were ever set: a value that is also the
    default can so be told from one that nobody asked for. Raises ValueError for an unknown key (naming the nearest), a
    value of the wrong type (naming key, value and wanted type) and a file that is not TOML.

    >>> apply(TrainConfig(), ["steps=200", "model.hidden_size=192"]).model.hidden_size
    192
    """
    assert _is_instance(config), "apply() changes an instance"
    changes: dict[str, Any] = {}
    if toml is not None:
        _merge(changes, _read_toml(Path(toml)))
    if isinstance(overrides, Mapping):
        _merge(changes, overrides)
    else:
        for item in overrides:
            key, equals, value = item.partition("=")
            if not equals or not key.strip():
                raise ValueError(f"{item!r} is not key=value; write for example {_example(config)}")
            _merge(changes, {key.strip(): value.strip()})
    changed = _replace(config, changes, "", config)
    if changes and "given" in {field.name for field in _fields(config)}:
        changed = dataclasses.replace(changed, given=tuple(sorted({*changed.given, *_leaves(changes)})))
    return changed


def to_dict(config: Any) -> dict[str, Any]:
    """The config as JSON-able dicts, lists, strings and numbers (paths become strings, tuples become lists).

    A field that may hold one of several dataclasses also stores which one, as "type".
    """
    assert _is_instance(config), "to_dict() takes an instance"
    hints = typing.get_type_hints(type(config))
    out = {}
    for field in _fields(config):
        value = getattr(config, field.name)
        plain = _plain(value)
        if dataclasses.is_dataclass(value) and len(_dataclasses(hints[field.name])) > 1:
            plain = {"type": type(value).__name__, **plain}
        out[field.name] = plain
    return out


def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """The `cls` that to_dict() stored. An unknown key, a wrong type or a missing required key raises ValueError."""
    return _build(cls, values, "")


def keys(config: Any, prefix: str = "") -> list[str]:
    """Every key `apply` accepts, dotted: ["steps", "lr", "model", "model.hidden_size", ...]."""
    out = []
    for field in _fields(config):
        out.append(prefix + field.name)
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            out += keys(value, f"{prefix}{field.name}.")
        elif isinstance(value, Mapping):
            out += [f"{prefix}{field.name}.{name}" for name in value]
    return out


def refuse_outside(config: Any, limits: Mapping[str, tuple[float, float]]) -> None:
    """ValueError for a number that is not within its limits, (lowest, highest) by name; either may be infinite. None is
    no number. For a dataclass's __post_init__."""
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            wanted = f"a number from {low} to {high}" if math.isfinite(high) else f"{low} or more"
            raise ValueError(f"{name}={value}: give {wanted}")


# ---- changes: a tree of dicts whose leaves are strings from the command line or values from TOML and Python


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"no config file at {path}; give a TOML file with lines such as: steps = 200")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None


def _merge(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put `changes` into `tree`, dotted keys unfolded; what comes later wins."""
    for key, value in changes.items():
        *parents, last = str(key).split(".")
        node = tree
        for name in parents:
            if not isinstance(node.get(name), dict):
                node[name] = {}
            node = node[name]
        if isinstance(value, Mapping):
            if not isinstance(node.get(last), dict):
                node[last] = {}
            _merge(node[last], value)
        else:
            node[last] = value


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys of a tree of changes."""
    return [key for name, value in tree.items() for key in
            (_leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name])]  # fmt: skip


def _replace(config: Any, changes: Mapping[str, Any], prefix: str, top: Any) -> Any:
    """`config` with the changes parsed by its annotations; dataclasses inside keep what is not named."""
    hints = typing.get_type_hints(type(config))
    names = {field.name for field in _fields(config)}
    values: dict[str, Any] = {}
    for name, raw in changes.items():
        key = prefix + name
        if name not in names:
            raise ValueError(_unknown(key, top))
        old, hint = getattr(config, name), hints[name]
        if isinstance(raw, dict) and dataclasses.is_dataclass(old) and "type" not in raw:
            values[name] = _replace(old, raw, f"{key}.", top)
        elif isinstance(raw, dict) and isinstance(old, Mapping):
            values[name] = {**old, **_parse(raw, hint, key)}
        else:
            values[name] = _parse(raw, hint, key)
    return dataclasses.replace(config, **values)


def _build(cls: type[Any], values: Any, prefix: str) -> Any:
    """A fresh `cls` from a mapping: its defaults where the mapping is silent."""
    where = prefix.rstrip(".") or cls.__name__
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r}; it wants a table of the fields of {cls.__name__}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in _fields(cls)}
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=3)
            hint = f"; the nearest: {', '.join(near)}" if near else ""
            raise ValueError(f"unknown key {prefix + name!r} of {cls.__name__}{hint}. It has {', '.join(fields)}.")
    missing = [name for name, field in fields.items() if name not in values and _required(field)]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; {cls.__name__} has no default for it.")
    return cls(**{name: _parse(value, hints[name], prefix + name) for name, value in values.items()})


# ---- one value: a string from the command line or a value of TOML, JSON or Python -> what the annotation says


def _parse(raw: Any, hint: Any, key: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return raw
    if origin is typing.Annotated:
        return _parse(raw, args[0], key)
    if origin in (Union, types.UnionType):
        return _parse_union(raw, args, hint, key)
    if origin is Literal:
        for option in args:
            if (raw == option and type(raw) is type(option)) or (isinstance(raw, str) and raw == _text(option)):
                return option
        raise ValueError(f"{key}={_text(raw)} is not one of {', '.join(map(_text, args))}")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return raw if isinstance(raw, hint) else _build(hint, raw, f"{key}.")
    if origin in (tuple, list):
        return origin(_parse_items(raw, origin, args, hint, key))
    if origin is dict or hint is dict:
        if not isinstance(raw, Mapping):
            raise _wrong(raw, hint, key, f"set one entry with {key}.NAME=VALUE")
        value_hint = args[1] if args else Any
        return {str(name): _parse(value, value_hint, f"{key}.{name}") for name, value in raw.items()}
    if hint in (tuple, list):
        return hint(raw.split(",") if isinstance(raw, str) else raw)
    return _parse_scalar(raw, hint, key)


def _parse_scalar(raw: Any, hint: Any, key: str) -> Any:
    if hint is type(None):
        if raw is None or (isinstance(raw, str) and raw.lower() in ("none", "null")):
            return None
    elif hint is bool:
        if isinstance(raw, bool):
            return raw
        if isinstance(raw, str) and raw.lower() in ("true", "false"):
            return raw.lower() == "true"
        raise _wrong(raw, hint, key, "write true or false")
    elif hint is int or hint is float:
        number = isinstance(raw, int | float if hint is float else int) and not isinstance(raw, bool)
        if number or isinstance(raw, str):
            try:
                return hint(raw)
            except ValueError:
                pass  # the message below names the key, which int() and float() do not know
    elif hint is str:
        if isinstance(raw, str):
            return raw
    elif hint is Path:
        if isinstance(raw, str | Path):
            return Path(raw).expanduser()
    elif isinstance(hint, type) and isinstance(raw, hint):
        return raw
    raise _wrong(raw, hint, key)


def _parse_union(raw: Any, args: tuple[Any, ...], hint: Any, key: str) -> Any:
    classes = {cls.__name__: cls for cls in _dataclasses(hint)}
    if isinstance(raw, Mapping) and classes:
        if len(classes) == 1:
            return _parse(raw, next(iter(classes.values())), key)
        name = raw.get("type")
        if name not in classes:
            raise ValueError(f"{key}.type is {name!r}; it says which of {', '.join(classes)} the other keys are for")
        return _parse({k: v for k, v in raw.items() if k != "type"}, classes[name], key)
    problem: ValueError | None = None
    for option in sorted(args, key=lambda option: option is str):  # str last: it would swallow "none" and "3"
        try:
            return _parse(raw, option, key)
        except ValueError as error:
            if option is not type(None):
                problem = error
    if problem is not None and len([option for option in args if option is not type(None)]) == 1:
        suffix = " (or none)" if type(None) in args else ""
        raise ValueError(f"{problem}{suffix}")
    raise _wrong(raw, hint, key)


def _parse_items(raw: Any, origin: Any, args: tuple[Any, ...], hint: Any, key: str) -> list[Any]:
    if isinstance(raw, str):
        raw = [part.strip() for part in raw.split(",")] if raw.strip() else []
    if not isinstance(raw, list | tuple):
        raise _wrong(raw, hint, key, "write a,b,c")
    if origin is list or (len(args) == 2 and args[1] is Ellipsis):
        item_hints = [args[0]] * len(raw)
    else:
        item_hints = list(args)
    if len(raw) != len(item_hints):
        raise ValueError(f"{key} has {len(raw)} values ({', '.join(map(_text, raw))}); it wants {len(item_hints)}")
    return [_parse(item, item_hint, key) for item, item_hint in zip(raw, item_hints, strict=True)]


# ---- words for messages


def _wrong(raw: Any, hint: Any, key: str, advice: str = "") -> ValueError:
    got = "" if isinstance(raw, str) else f" ({type(raw).__name__})"
    return ValueError(f"{key}={_text(raw)}{got} is not {_name(hint)}" + (f"; {advice}" if advice else ""))


def _unknown(key: str, top: Any) -> str:
    known = keys(top)
    near = difflib.get_close_matches(key, known, n=3)
    near += [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1] and name not in near]
    message = f"unknown key {key!r}"
    if near:
        message += f"; the nearest: {', '.join(near)}"
    parent = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    if 0 < len(siblings) <= LIST_KEYS_UP_TO:
        message += f". The keys {'of ' + parent if parent else 'here'}: {', '.join(siblings)}"
    return message + "."


def _example(config: Any) -> str:
    for field in _fields(config):
        value = getattr(config, field.name)
        if isinstance(value, bool | int | float | str):
            return f"{field.name}={_text(value)}"
    return "name=value"


def _name(hint: Any) -> str:
    if isinstance(hint, type) and not typing.get_args(hint):
        return {"int": "an int", "NoneType": "none"}.get(hint.__name__, f"a {hint.__name__}")
    return str(hint).replace("typing.", "").replace("NoneType", "none")


def _text(value: Any) -> str:
    """The value as a person would type it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)


def _plain(value: Any) -> Any:
    if _is_instance(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _dataclasses(hint: Any) -> list[type]:
    options = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)]


def _is_instance(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _fields(config: Any) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(config) if field.init]


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
