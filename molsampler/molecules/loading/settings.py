"""system.toml: read and checked key by key, and written. docs/SYSTEMS.md describes every field."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from molsampler.basis.errors import InputError
from molsampler.molecules.molecule import Amides

FILE = "system.toml"
SOURCES = (("pdb", "forcefield"), ("prmtop", "inpcrd"), ("system_xml", "pdb"), ("openmmtools",))
"""The keys that together say where the molecule comes from; a system.toml has those of one line."""
CHOICE = "pdb with forcefield, prmtop with inpcrd, system_xml with pdb, or openmmtools"
_SOURCE_KEYS = {key for keys in SOURCES for key in keys}
_KINDS = {"name": str, "temperature": float, "arguments": dict, "forcefield": list}
KEYS = sorted(_SOURCE_KEYS | _KINDS.keys() | {"amides"})


@dataclass(frozen=True)
class Settings:
    """One system.toml; files are relative to its folder.

    source : the keys that are given, one of SOURCES
    temperature : K
    amides : "kept" as in the structure, or "free" to be cis and trans
    arguments : the [arguments] table as it stands
    """

    folder: Path
    name: str
    temperature: float
    source: tuple[str, ...]
    pdb: str = ""
    forcefield: tuple[str, ...] = ()
    prmtop: str = ""
    inpcrd: str = ""
    system_xml: str = ""
    openmmtools: str = ""
    amides: Amides = "kept"
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The file, for messages."""
        return str(self.folder / FILE)

    def path(self, key: str) -> Path:
        """The file that `key` names; InputError where there is none."""
        path = self.folder / getattr(self, key)
        if not path.is_file():
            raise InputError(f"{self.where}: {key} = '{getattr(self, key)}': there is no file {path}")
        return path

    @property
    def described(self) -> str:
        """One line on where the molecule comes from."""
        if self.openmmtools:
            return f"openmmtools' {self.openmmtools}"
        if self.prmtop:
            return f"{self.prmtop} with {self.inpcrd}"
        return (
            f"{self.system_xml} with {self.pdb}" if self.system_xml else f"{self.pdb} with {' '.join(self.forcefield)}"
        )


def read_settings(path: Path) -> Settings:
    """What the system.toml at `path` says; InputError quotes what does not fit."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from error
    unknown = sorted(values.keys() - set(KEYS))
    if unknown:
        raise InputError(f"{path}: unknown key '{unknown[0]}'; known are {', '.join(KEYS)}")
    for key, value in values.items():
        kind = _KINDS.get(key, str)
        if kind is not float and not isinstance(value, kind):
            raise InputError(f"{path}: {key} = {value!r} should be a {kind.__name__}")
        if kind in (str, list) and not value:
            raise InputError(f"{path}: {key} = {value!r} is empty")
    for name in values.get("forcefield", []):
        if not isinstance(name, str):
            raise InputError(f"{path}: forcefield names {name!r}; it is a list of file names in quotes")
    if values.get("amides", "kept") not in get_args(Amides):
        raise InputError(f'{path}: amides = {values["amides"]!r} has no meaning; give "kept" or "free"')
    temperature = check_temperature(values.pop("temperature", None), f"{path}: temperature")
    values.setdefault("name", path.parent.resolve().name)
    if "forcefield" in values:
        values["forcefield"] = tuple(values["forcefield"])
    source = _source(path, values)
    if "arguments" in values and "system_xml" in values:
        raise InputError(f"{path}: [arguments] have no use for a System that is made already (system_xml); remove them")
    return Settings(folder=path.parent, temperature=temperature, source=source, **values)


def check_temperature(value: Any, what: str) -> float:
    """`value` as kelvin; InputError unless it is a positive, finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0.0 < value < float("inf"):
        raise InputError(f"{what} = {value!r} must be a positive number of kelvin")
    return float(value)


def _source(path: Path, values: dict[str, Any]) -> tuple[str, ...]:
    given = _SOURCE_KEYS & values.keys()
    for keys in SOURCES:
        if given == set(keys):
            return keys
    if not given:
        raise InputError(f"{path} names no molecule: give {CHOICE}")
    if given == {"pdb"}:
        raise InputError(
            f'{path}: pdb needs forcefield, a list such as ["amber14-all.xml", "implicit/obc2.xml"], or a system_xml'
        )
    for keys in SOURCES:
        if given < set(keys):
            (missing,) = set(keys) - given
            raise InputError(f"{path}: {' and '.join(sorted(given))} needs {missing} beside it")
    raise InputError(f"{path}: {', '.join(sorted(given))} do not go together: give one source, {CHOICE}")


def settings_text(values: dict[str, Any], comments: dict[str, str], arguments: dict[str, Any], header: str) -> str:
    """TOML of a system.toml: a header, each value with its comment behind it, then [arguments] where there are any."""
    lines = [f"# {line}" for line in header.splitlines()]
    lines += _aligned([(f"{key} = {_value(value)}", comments.get(key, "")) for key, value in values.items()])
    if arguments:
        lines += ["", "[arguments]"]
        lines += _aligned([(f"{key} = {_value(value)}", comments.get(key, "")) for key, value in arguments.items()])
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(item)}" for key, item in value.items()) + " }"
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _aligned(lines: list[tuple[str, str]]) -> list[str]:
    width = max(len(text) for text, _ in lines)
    return [f"{text:{width}s}  # {comment}" if comment else text for text, comment in lines]
