"""Frozen dataclasses to TOML and back; what a configuration file says is checked key by key."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from molsampler.basis.errors import InputError
from molsampler.basis.settings import misfit_of

T = TypeVar("T")


def to_toml(config: Any, header: str = "") -> str:
    """TOML text of a nested dataclass: its plain fields, then one table for every dataclass in it."""
    lines = [f"# {line}" for line in header.splitlines()]
    _table(config, (), lines)
    return "\n".join(lines) + "\n"


def _table(config: Any, path: tuple[str, ...], lines: list[str]) -> None:
    if path:
        lines += ["", f"[{'.'.join(path)}]"]
    nested = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            nested.append((field.name, value))
        elif value is not None:
            # TOML writes these scalars as JSON does, but knows no pairs of surrogates
            lines.append(f"{field.name} = {json.dumps(value, ensure_ascii=False)}")
    for name, value in nested:
        _table(value, (*path, name), lines)


def read_toml(path: str | Path, base: T) -> T:
    """`base` with the values that the TOML file at `path` names; InputError quotes what does not fit."""
    return update(base, load_toml(path), str(path))


def load_toml(path: str | Path) -> dict[str, Any]:
    """What the TOML file at `path` says; InputError where it cannot be read or is no TOML."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"the configuration '{path}' cannot be read ({error.strerror}): check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the configuration '{path}' is not TOML ({error}): mend it") from error


def update(base: T, values: dict[str, Any], where: str) -> T:
    """`base` with `values`, a nested dict, put in; unknown keys and wrong types raise InputError naming `where`."""
    hints = get_type_hints(type(base))
    names = [field.name for field in dataclasses.fields(base)]
    changes = {}
    for key, value in values.items():
        if key not in names:
            raise InputError(f"{where}: unknown key '{key}'; known are {', '.join(names)}")
        current = getattr(base, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise InputError(f"{where}: '{key}' is a table, not {value!r}")
            changes[key] = update(current, value, f"{where} [{key}]")
        else:
            changes[key] = _checked(value, hints[key], f"{where}: {key} = {value!r}")
    return dataclasses.replace(base, **changes)


def _checked(value: Any, kind: Any, what: str) -> Any:
    """The value, a whole number as a float where one is wanted; InputError where it is of another kind."""
    if float in (get_args(kind) or (kind,)) and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    misfit = misfit_of(value, kind)
    if misfit is not None:
        raise InputError(f"{what} {misfit}")
    return value
