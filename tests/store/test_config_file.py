"""Configurations to TOML and back, and what a file may not say."""

from __future__ import annotations

import dataclasses

import pytest

from molsampler.basis.errors import InputError
from molsampler.basis.settings import without_effect
from molsampler.runs.molecule import RunConfig
from molsampler.runs.presets import PRESETS, preset
from molsampler.store.config_file import read_toml, to_toml


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_the_round_trip(name, tmp_path):
    config = preset(name)
    changed = dataclasses.replace(
        config, system='a "b"\\ü\U0001f600', train=dataclasses.replace(config.train, seed=77, minutes=1e-5)
    )
    for written in (config, changed):
        path = tmp_path / "config.toml"
        path.write_text(to_toml(written, "two\nlines"), encoding="utf-8")
        assert path.read_text(encoding="utf-8").startswith("# two\n# lines\n")
        other = preset("paper" if name != "paper" else "long")  # so that what comes back comes from the file
        assert read_toml(path, dataclasses.replace(other, samples=3)) == written


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_holds_a_setting_without_effect(name):
    """Nobody is to be told of what they have not changed."""
    assert without_effect(preset(name)) == []


def test_a_byte_order_mark_in_front_is_read_over(tmp_path):
    path = tmp_path / "few.toml"
    path.write_text("samples = 12\n", encoding="utf-8-sig")
    assert read_toml(path, RunConfig()).samples == 12


def test_only_what_the_file_names_is_changed(tmp_path):
    path = tmp_path / "few.toml"
    path.write_text("samples = 12\n[train]\nminutes = 2\n[train.policy]\nwidth = 5\n")
    config = read_toml(path, RunConfig())
    assert (config.samples, config.train.minutes, config.train.policy.width) == (12, 2.0, 5)
    assert type(config.train.minutes) is float
    policy = dataclasses.replace(config.train.policy, width=RunConfig().train.policy.width)
    train = dataclasses.replace(config.train, minutes=RunConfig().train.minutes, policy=policy)
    assert dataclasses.replace(config, samples=RunConfig().samples, train=train) == RunConfig()


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("sampels = 3", "'sampels'"),
        ("[train]\nminuets = 3.0", "'minuets'"),
        ("[train.policy]\nwitdh = 3", "'witdh'"),
        ("samples = 3.5", "3.5"),
        ("samples = true", "True"),
        ('samples = "many"', "'many'"),
        ("samples = [1]", "[1]"),
        ("[train]\nminutes = true", "True"),
        ("[train]\ncompile = 1", "1"),
        ('sampler = "gibbs"', "'gibbs'"),
        ("sampler = [3]", "[3]"),
        ('[train]\nprecision = "float16"', "'float16'"),
        ("[train]\nminutes = nan", "nan"),
        ("[train]\nminutes = inf", "inf"),
        (f"[train]\nminutes = 1{'0' * 400}", "10000"),
        ("train = 7", "7"),
        ("[train]\npolicy = [1, 2]", "[1, 2]"),
        ("samples = = 3", "line 1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(text, quoted, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        read_toml(path, RunConfig())
    assert quoted in str(refused.value) and str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "nowhere.toml", tmp_path, binary):
        with pytest.raises(InputError, match=str(path)):
            read_toml(path, RunConfig())
