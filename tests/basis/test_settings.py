"""Settings: ranges, types and dependences on made-up configurations, then every setting that a run can be told."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

import pytest

from molsampler.basis.errors import InputError
from molsampler.basis.settings import (
    POSITIVE,
    About,
    about,
    change,
    check_values,
    misfit_of,
    setting,
    table,
    walk,
    wanted_words,
    without_effect,
)
from molsampler.runs.density import DensityConfig
from molsampler.runs.methods import ARMS
from molsampler.runs.molecule import RunConfig
from molsampler.runs.presets import PRESETS, preset
from molsampler.runs.synthetic_config import SyntheticConfig, synthetic_config
from molsampler.targets.synthetic import SYNTHETIC


@dataclass(frozen=True)
class Inner:
    size: int = setting(3, "how many", low=1, high=10)
    share: float = setting(0.5, "of all", above=0.0, below=1.0, needs={"size": (2, 3)})
    kind: Literal["plain", "fine"] = setting("plain", "which", needs={"outer.mode": "slow", "size": POSITIVE})


@dataclass(frozen=True)
class Outer:
    mode: Literal["fast", "slow"] = setting("fast", "how")
    number: int | None = setting(None, "left out, decided later", low=0)
    each: float = setting(1.0, "as often", unit="ps", low=0.0, needs={"number": POSITIVE})
    flag: bool = setting(False, "whether")
    inner: Inner = table(Inner, "what is inside")


@dataclass(frozen=True)
class Top:
    name: str = setting("x", "of it")
    outer: Outer = table(Outer, "all else")


def test_walk_and_what_a_field_says_of_itself():
    found = {name: (type(owner), value) for name, owner, _, value in walk(Top())}
    assert list(found) == [
        "name",
        "outer.mode",
        "outer.number",
        "outer.each",
        "outer.flag",
        "outer.inner.size",
        "outer.inner.share",
        "outer.inner.kind",
    ]
    assert found["outer.inner.size"] == (Inner, 3) and found["outer.number"] == (Outer, None)
    each = next(field for name, _, field, _ in walk(Top()) if name == "outer.each")
    assert about(each) == About("as often", unit="ps", low=0.0, needs=(("number", POSITIVE),))
    assert about(dataclasses.fields(Top)[1]).text == "all else"


def test_change_reaches_tables_however_deep_and_leaves_the_rest():
    top = Top()
    changed = change(top, name="y", outer={"flag": True, "inner": {"size": 7}})
    assert changed == Top("y", Outer(flag=True, inner=Inner(size=7)))
    assert top == Top() and changed.outer.inner.share == 0.5
    assert change(top) == top
    assert change(top, outer=Outer(mode="slow")).outer.mode == "slow"  # a table as a whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outer": {"inner": {"sise": 1}}}, "unknown setting 'sise'; known are size, share, kind"),
        ({"inner": {}}, "unknown setting 'inner'; known are name, outer"),
        ({"outer": 3}, "'outer' = 3 does not fit: give a dict for a table, and a value for a setting"),
        ({"name": {}}, "'name' = {} does not fit: give a dict for a table, and a value for a setting"),
        ({"name": Inner()}, f"'name' = {Inner()!r} does not fit: give a dict for a table, and a value for a setting"),
    ],
)
def test_changes_that_fit_no_setting_are_refused(changes, message):
    with pytest.raises(InputError) as error:
        change(Top(), **changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "outer.inner.size = 0 is not usable: give at least 1"),
        ({"size": 11}, "outer.inner.size = 11 is not usable: give at most 10"),
        ({"share": 0.0}, "outer.inner.share = 0.0 is not usable: give more than 0"),
        ({"share": 1.0}, "outer.inner.share = 1.0 is not usable: give less than 1"),
        ({"share": math.nan}, "outer.inner.share = nan must be finite"),
        ({"share": math.inf}, "outer.inner.share = inf must be finite"),
        ({"share": "0.5"}, "outer.inner.share = '0.5' should be of type float"),
        ({"size": 2.0}, "outer.inner.size = 2.0 should be of type int"),
        ({"size": True}, "outer.inner.size = True should be of type int"),
        ({"size": None}, "outer.inner.size = None should be of type int"),
        ({"kind": "rough"}, "outer.inner.kind = 'rough' is not one of 'plain', 'fine'"),
        ({"kind": 1}, "outer.inner.kind = 1 is not one of 'plain', 'fine'"),
    ],
)
def test_values_that_are_refused(changes, message):
    with pytest.raises(InputError) as error:
        check_values(change(Top(), outer={"inner": changes}))
    assert str(error.value) == message


def test_values_at_their_bounds_are_good():
    for changes in ({"size": 1}, {"size": 10}, {"share": 1e-9}, {"share": 0.999}, {"kind": "fine"}):
        check_values(change(Top(), outer={"inner": changes}))
    check_values(change(Top(), outer={"number": 0, "each": 0, "flag": True}))  # a whole number does for a float


def test_other_refusals():
    for changes, message in (
        ({"number": -1}, "outer.number = -1 is not usable: give at least 0"),
        ({"number": "many"}, "outer.number = 'many' should be of type int"),
        ({"number": True}, "outer.number = True should be of type int"),
        ({"flag": 1}, "outer.flag = 1 should be of type bool"),
        ({"each": -0.1}, "outer.each = -0.1 is not usable: give at least 0"),
    ):
        with pytest.raises(InputError) as error:
            check_values(change(Top(), outer=changes))
        assert str(error.value) == message
    with pytest.raises(InputError, match="^name = 3 should be of type str$"):
        check_values(Top(name=3))


def test_misfits_of_kinds():
    assert misfit_of(None, int | None) is None and misfit_of(3, float) is None and misfit_of(3, int | None) is None
    assert misfit_of("a", Literal["a", "b"]) is None
    assert misfit_of(1.5, int | float) is None
    assert misfit_of("a", int | float) == "should be of type int or float"


def test_settings_without_effect_are_told_one_by_one():
    assert without_effect(Top()) == []
    idle = change(Top(), outer={"inner": {"size": 4, "share": 0.25, "kind": "fine"}})
    assert without_effect(idle) == [
        "outer.inner.share = 0.25 has no effect: size is 4, not 2 or 3",
        "outer.inner.kind = 'fine' has no effect: outer.mode is 'fast', not 'slow'",
    ]
    # where what they need is there, they have one; what is not changed is not told
    assert without_effect(change(Top(), outer={"mode": "slow", "inner": {"share": 0.25, "kind": "fine"}})) == []
    assert without_effect(change(Top(), outer={"inner": {"size": 4}})) == []


def test_a_number_that_the_budget_decides_counts_as_positive():
    assert without_effect(change(Top(), outer={"each": 2.0})) == []
    assert without_effect(change(Top(), outer={"each": 2.0, "number": 1})) == []
    assert without_effect(change(Top(), outer={"each": 2.0, "number": 0})) == [
        "outer.each = 2.0 has no effect: number is 0, not more than 0"
    ]


def test_conditions_in_words():
    assert wanted_words(POSITIVE) == "more than 0"
    assert wanted_words(("a", 2)) == "'a' or 2" and wanted_words(True) == "True" and wanted_words("a") == "'a'"


# every setting that a run can be told ---------------------------------------------------------------------------------

CONFIGS = {
    "molecule": RunConfig,
    "density": DensityConfig,
    "synthetic": SyntheticConfig,
}
PRESETS_AND_TARGETS = {name: preset(name) for name in PRESETS} | {name: synthetic_config(name) for name in SYNTHETIC}


def tables(config: Any) -> list[Any]:
    """The configuration and every table in it."""
    inside = [getattr(config, field.name) for field in dataclasses.fields(config)]
    return [config, *(t for value in inside if dataclasses.is_dataclass(value) for t in tables(value))]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_field_says_what_it_is(name):
    for owner in tables(CONFIGS[name]()):
        assert type(owner).__doc__
        for field in dataclasses.fields(owner):
            where = f"{type(owner).__name__}.{field.name}"
            assert isinstance(field.metadata.get("about"), About), where
            assert about(field).text.strip() and not about(field).text.endswith("."), where


@pytest.mark.parametrize("name", list(CONFIGS))
def test_defaults_are_good_and_all_have_an_effect_or_are_not_changed(name):
    check_values(CONFIGS[name]())
    CONFIGS[name]().train.check()
    assert without_effect(CONFIGS[name]()) == []


@pytest.mark.parametrize("name", list(PRESETS_AND_TARGETS))
def test_presets_and_targets_are_good(name):
    config = PRESETS_AND_TARGETS[name]
    check_values(config)
    config.train.check()
    if name in PRESETS:  # nothing is changed in vain
        assert without_effect(config) == []


@pytest.mark.parametrize("arm", list(ARMS))
def test_method_arms_are_good(arm):
    config = change(SyntheticConfig(), train=ARMS[arm].change(synthetic_config("gmm40-2d").train))
    check_values(config)
    config.train.check()


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_condition_names_a_setting_and_values_that_it_can_have(name):
    config, conditions = CONFIGS[name](), 0
    values = {path: (owner, field) for path, owner, field, _ in walk(config)}
    for path, (_, field) in values.items():
        for other, wanted in about(field).needs:
            conditions += 1
            full = other if "." in other else ".".join([*path.split(".")[:-1], other])
            assert full in values and full != path, f"{path} needs {other}"
            held_by, needed = values[full]
            kind = get_type_hints(type(held_by))[needed.name]
            for value in wanted if isinstance(wanted, tuple) else (wanted,):
                if value is not POSITIVE:
                    assert misfit_of(value, kind) is None, f"{path} needs {other} = {value!r}"
    assert conditions > 20


@pytest.mark.parametrize("name", list(CONFIGS))
def test_any_setting_out_of_its_range_is_refused_by_name(name):
    """Just beyond each bound that is declared."""
    config = CONFIGS[name]()
    refused = 0
    for path, _, field, _ in walk(config):
        said, whole = about(field), isinstance(field.default, int) or field.default is None
        step = 1 if whole else 1e-6
        beyond = [
            *([said.low - step] if said.low is not None else []),
            *([said.high + step] if said.high is not None else []),
            *([said.above] if said.above is not None else []),
            *([said.below] if said.below is not None else []),
        ]
        for value in beyond:
            changes: Any = int(value) if whole else float(value)
            for part in reversed(path.split(".")):
                changes = {part: changes}
            with pytest.raises(InputError, match=f"^{path} = .* is not usable: give "):
                check_values(change(config, **changes))
            refused += 1
    assert refused > 40
