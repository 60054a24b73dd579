"""Settings: fields of frozen dataclasses that carry their description, their range and what they depend on.

docs/SETTINGS.md is made from them, a configuration is checked by them, and a run says which of the settings that were
changed have no effect with the others chosen.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from molsampler.basis.errors import InputError

POSITIVE = "more than 0"
"""In `needs`: any number above 0."""
LARGEST_SEED = 10**18
"""torch takes no more than 2^63, and some purposes of a run add to its seed."""


@dataclass(frozen=True)
class About:
    """text : what it is; unit : of the number
    low, high : the least and the largest value; above, below : open bounds
    needs : what others have to be for this one to have an effect, {name: value, values or POSITIVE}, all of them;
        names are looked up in the same table, or from the top with dots
    """

    text: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    needs: tuple[tuple[str, Any], ...] = ()

    def refusal(self, value: Any) -> str | None:
        """What to give instead of a value out of range; None where it is within, or no number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if self.low is not None and not value >= self.low:
            return f"give at least {self.low:g}"
        if self.above is not None and not value > self.above:
            return f"give more than {self.above:g}"
        if self.high is not None and not value <= self.high:
            return f"give at most {self.high:g}"
        if self.below is not None and not value < self.below:
            return f"give less than {self.below:g}"
        return None


def setting(default: Any, text: str, *, needs: dict[str, Any] | None = None, **about: Any) -> Any:
    """A field of a frozen dataclass with its default and what there is to say about it (`About`)."""
    return dataclasses.field(
        default=default, metadata={"about": About(text, needs=tuple((needs or {}).items()), **about)}
    )


def table(make: Callable[[], Any], text: str) -> Any:
    """A field that holds a table of settings, as `make` gives it."""
    return dataclasses.field(default_factory=make, metadata={"about": About(text)})


def change(config: Any, **parts: Any) -> Any:
    """The configuration with these fields replaced; a dict changes the fields of a table, however deep.

    Raises InputError for a name that is none of its settings.
    """
    known = [field.name for field in dataclasses.fields(config)]
    for name, value in parts.items():
        if name not in known:
            raise InputError(f"unknown setting '{name}'; known are {', '.join(known)}")
        if dataclasses.is_dataclass(getattr(config, name)) != (
            isinstance(value, dict) or dataclasses.is_dataclass(value)
        ):
            raise InputError(f"'{name}' = {value!r} does not fit: give a dict for a table, and a value for a setting")
    changed = {
        name: change(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in parts.items()
    }
    return dataclasses.replace(config, **changed)


def about(field: dataclasses.Field) -> About:
    """What a field made by `setting` or `table` says of itself."""
    return field.metadata["about"]


def walk(config: Any, path: str = "") -> Iterator[tuple[str, Any, dataclasses.Field, Any]]:
    """(path with dots, the table, the field, its value) of every setting of a configuration, tables left out."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{path}.{field.name}" if path else field.name
        if dataclasses.is_dataclass(value):
            yield from walk(value, name)
        else:
            yield name, config, field, value


def check_values(config: Any) -> None:
    """InputError that quotes the first setting of a configuration that has a wrong type or lies out of its range."""
    hints: dict[type, dict[str, Any]] = {}
    for name, owner, field, value in walk(config):
        kinds = hints.setdefault(type(owner), get_type_hints(type(owner)))
        misfit = misfit_of(value, kinds[field.name])
        if misfit is not None:
            raise InputError(f"{name} = {value!r} {misfit}")
        refusal = about(field).refusal(value)
        if refusal is not None:
            raise InputError(f"{name} = {value} is not usable: {refusal}")


def misfit_of(value: Any, kind: Any) -> str | None:
    """What keeps a value from being of a field's annotated kind, in words that follow it; None where it is."""
    if get_origin(kind) is Literal:
        return None if value in get_args(kind) else f"is not one of {', '.join(map(repr, get_args(kind)))}"
    kinds = get_args(kind) or (kind,)
    if not any(type(value) is k or (k is float and type(value) is int) for k in kinds):
        return f"should be of type {' or '.join(k.__name__ for k in kinds if k is not type(None))}"
    if isinstance(value, float) and not math.isfinite(value):
        return "must be finite"
    return None


def without_effect(config: Any) -> list[str]:
    """One sentence for each setting that was changed from its default and has no effect with the others chosen."""
    sentences = []
    for name, owner, field, value in walk(config):
        if value == field.default:
            continue
        for other, wanted in about(field).needs:
            held = _look_up(config, owner, other)
            if not _fulfils(held, wanted):
                sentences.append(f"{name} = {value!r} has no effect: {other} is {held!r}, not {wanted_words(wanted)}")
    return sentences


def wanted_words(wanted: Any) -> str:
    """A condition of `About.needs` in words."""
    return (
        " or ".join(map(repr, wanted)) if isinstance(wanted, tuple) else wanted if wanted is POSITIVE else repr(wanted)
    )


def _fulfils(held: Any, wanted: Any) -> bool:
    if wanted is POSITIVE:
        return held is None or held > 0  # None: decided later, by the budget
    return held in wanted if isinstance(wanted, tuple) else held == wanted


def _look_up(config: Any, owner: Any, name: str) -> Any:
    if "." not in name:
        return getattr(owner, name)
    for part in name.split("."):
        config = getattr(config, part)
    return config
