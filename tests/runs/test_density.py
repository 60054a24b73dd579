"""A density of one's own: through `molsampler.start(target=...)` to weighted samples whose averages are right."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import molsampler
from molsampler.analysis.pictures.density import draw_density_samples
from molsampler.basis.settings import change
from molsampler.basis.space import Space
from molsampler.runs import density
from molsampler.runs.density import DensityRunDirectory
from molsampler.store.config_file import read_toml
from molsampler.targets.target import Target
from molsampler.training import emulator
from tests import tiny
from tests.folders import contents
from tests.training.test_trainer import assert_same

MEAN, COVARIANCE = torch.tensor([3.0, -1.0]), torch.tensor([[2.0, 0.6], [0.6, 0.5]])
LOG_Z = 0.7
BOUND = 4.5  # standard errors
LEARNING = {
    "warm_updates": 150,
    "updates": 60,
    "optimiser": {"warm_rate": 1e-2},
    "schedule": {"n_steps": 8},
    "policy": {"width": 32},
    "batch": {"denoising": 512, "balance": 64},
    "prefill": {"frames": 8},
}


@pytest.fixture(autouse=True)
def torch_threads(threads) -> None:
    """They are put back."""


def silent(text: str) -> None:
    pass


def log_gaussian(x: torch.Tensor) -> torch.Tensor:
    normal = torch.distributions.MultivariateNormal(MEAN.to(x), COVARIANCE.to(x), validate_args=False)
    return LOG_Z + normal.log_prob(x)


def gaussian(**more) -> molsampler.Density:
    return molsampler.Density(log_gaussian, 2, centre=[2.0, 0.0], extent=2.0, name="gaussian", **more)


def close(entry: dict, expected: float, least: float = 0.0) -> bool:
    """Within BOUND standard errors."""
    return abs(entry["value"] - expected) < BOUND * entry["stderr"] + least


def test_a_gaussian_has_its_moments_and_its_log_z(tmp_path):
    """By both samplers; the figures of one leave none of the other."""
    out, config = tmp_path / "run", tiny.density_config(samples=4000, train=LEARNING)
    with molsampler.start(target=gaussian(), out=out, config=config, progress=False, say=silent) as run:
        assert run.molecule is None and run.path == out and run.train()
        samples = run.sample()
        metrics = run.analyse()
        assert samples.x.shape == (4000, 2) and samples.group is None
        assert metrics["ess"]["value"] > 0.5 and close(metrics["log_z_estimate"], LOG_Z)
        for k in (0, 1):
            assert close(metrics[f"mean_x{k + 1}"], float(MEAN[k]))
            assert close(metrics[f"std_x{k + 1}"], math.sqrt(COVARIANCE[k, k]))
        assert abs(metrics["log_z_running"]["value"] - LOG_Z) < 0.1 and "log_z_learnt" in metrics
        assert metrics["pareto_k"]["value"] < metrics["pareto_k_threshold"]["value"]
        run.sample(1000, "smc")
        assert not (out / "metrics.json").exists() and not (out / "samples.png").exists()
        smc = run.analyse()
    assert smc["samples"]["value"] == 1024 and close(smc["log_z_estimate"], LOG_Z)
    assert not {"elbo", "pareto_k", "pareto_k_threshold"} & smc.keys() and close(smc["mean_x1"], 3.0, 0.1)
    assert json.loads((out / "metrics.json").read_text()) == smc
    held = {path.name for path in out.iterdir()} - {".lock"}
    assert held == set(DensityRunDirectory.files) - {"resampling.png"}
    again = molsampler.load_samples(out)
    assert isinstance(again, molsampler.DensitySamples) and again.weights.sum() == pytest.approx(1.0)
    natural = log_gaussian(torch.as_tensor(again.x)).double().numpy()
    assert np.ptp(again.log_prob - natural) < 1e-3  # but for the Jacobian of affine coordinates


DIM = 3


class Regression:
    """Bayesian logistic regression with a normal prior: no class of the package, only what the door asks for."""

    dim = DIM

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(60, DIM, generator=generator)
        chance = torch.sigmoid(self.features @ torch.tensor([1.0, -2.0, 0.5]))
        self.labels = torch.bernoulli(chance, generator=generator)

    def log_prob(self, beta: torch.Tensor) -> torch.Tensor:
        logits = beta @ self.features.to(beta).T
        likelihood = torch.nn.functional.logsigmoid((2.0 * self.labels.to(beta) - 1.0) * logits).sum(-1)
        return likelihood - 0.5 * (beta / 2.0).square().sum(-1)


def by_quadrature(log_prob, half: float = 7.0, points: int = 61) -> tuple[torch.Tensor, float]:
    """Means (3,) and log Z on a grid, which is exact to many digits for so smooth a density."""
    axis = torch.linspace(-half, half, points, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis)
    log_p = log_prob(grid)
    weights = (log_p - log_p.logsumexp(0)).exp()
    return weights @ grid, float(log_p.logsumexp(0)) + 3.0 * math.log(float(axis[1] - axis[0]))


def test_a_logistic_regression_agrees_with_quadrature(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny.density_config(samples=4000, standardise="full", train=LEARNING)
    with molsampler.start(target=Regression(), config=config, progress=False, say=silent) as run:
        assert run.path == Path("runs/density")
        run.train()
        run.sample()
        metrics = run.analyse()
    means, log_z = by_quadrature(Regression().log_prob)
    assert metrics["ess"]["value"] > 0.3 and close(metrics["log_z_estimate"], log_z)
    for k in range(DIM):
        assert close(metrics[f"mean_x{k + 1}"], float(means[k]))


def started(out: Path, target=None, **changes) -> molsampler.Run:
    return molsampler.start(
        target=target or gaussian(), out=out, config=tiny.density_config(**changes), progress=False, say=silent
    )


def learnt(run: molsampler.Run) -> dict:
    state = run.job.trainer.state_dict()
    state["counter"]["by_purpose"].pop("analysis", None)
    return {name: value for name, value in state.items() if name != "phase_seconds"}


def test_a_stopped_run_that_was_looked_at_ends_where_an_unstopped_one_ends(tmp_path, monkeypatch):
    """Stopped in balance, sampled by both samplers, analysed, resumed: bit for bit."""
    with started(tmp_path / "whole") as run:
        assert run.train()
        whole, first = learnt(run), run.sample(50)
    row = density.DensityRun.row

    def stop_after(self):
        self.stop = self.trainer.done > 40
        return row(self)

    with monkeypatch.context() as patch, started(tmp_path / "stopped") as run:
        patch.setattr(density.DensityRun, "row", stop_after)
        assert not run.train() and 40 < run.job.trainer.done < 64
        run.sample(100)
        run.sample(128, "smc")
        run.analyse()
        run.job.save()
    with molsampler.resume(tmp_path / "stopped", target=gaussian(), progress=False, say=silent) as run:
        assert run.train()
        assert_same(learnt(run), whole)
        np.testing.assert_array_equal(run.sample(50).log_weights, first.log_weights)
    rows = [density.RunDirectory(tmp_path / name).read_metrics_rows() for name in ("whole", "stopped")]
    looked = {"seconds": "", "evaluations_analysis": ""}
    assert [{**row, **looked} for row in rows[0]] == [{**row, **looked} for row in rows[1]]


def test_smc_asks_an_emulator_which_proposals_are_worth_an_evaluation(tmp_path, monkeypatch):
    """A quarter of what is walked is evaluated, and the estimate is right; a buffer too small to learn from is told."""
    said: list[str] = []
    monkeypatch.setattr(emulator, "UPDATES", 200)
    config = tiny.density_config(train=LEARNING | {"smc": {"proposals": 4}, "replay": {"capacity": 4000}})
    with molsampler.start(target=gaussian(), out=tmp_path / "run", config=config, progress=False, say=silent) as run:
        run.train()
        run.job.say = said.append
        before = run.job.target.counter.total
        samples = run.sample(3200, "smc")
        assert run.job.target.counter.total - before == len(samples.weights) == 3200
        assert close(run.analyse()["log_z_estimate"], LOG_Z) and "fitted to" in said.pop()
        monkeypatch.setattr(emulator, "LEAST", 5000)
        run.sample(128, "smc")
        few = "4,000 replayed states are too few to fit an emulator to, which takes 5,000"
        assert said == [f"note: smc.proposals has no effect: {few}"]


def test_more_minutes_train_on(tmp_path):
    out = tmp_path / "run"
    with started(out) as run:
        run.train()
        made, seconds = run.job.trainer.done, run.job.trainer.seconds
    with pytest.raises(molsampler.InputError, match="adds nothing"):
        molsampler.resume(out, target=gaussian(), minutes=seconds / 120.0, say=silent)
    with molsampler.resume(out, target=gaussian(), minutes=seconds / 15.0, progress=False, say=silent) as run:
        assert run.train() and run.job.trainer.done > made + 10
        config = read_toml(out / "config.toml", molsampler.DensityConfig())
        assert config.train.warm_updates + config.train.updates == run.job.trainer.done
        assert int(run.job.run.read_metrics_rows()[-1]["update"]) == run.job.trainer.done


def test_minutes_before_anything_was_trained_are_the_budget(tmp_path):
    with started(tmp_path / "run", train={"updates": 100_000}) as run:
        assert run.train(minutes=0.01) and 0 < run.job.trainer.done < 50_000


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"minutes": 0.2, "warm_updates": None, "updates": 3}, {"updates": 3}),
        ({"minutes": 0.2, "warm_updates": 5, "updates": None}, {"warm_updates": 5}),
        ({"minutes": 0.2, "warm_updates": None, "updates": None}, {}),
        ({"minutes": 0.2, "warm_updates": 5, "updates": 3}, {"warm_updates": 5, "updates": 3}),
        ({"minutes": 0.2, "warm_updates": 0, "updates": None}, {"warm_updates": 0}),
        ({"minutes": 0.2, "warm_updates": None, "updates": 0}, {"updates": 0}),
    ],
)
def test_numbers_of_updates_stand_and_minutes_decide_the_rest(given, kept, tmp_path, monkeypatch):
    """What is given is kept, 0 included; what is not takes its own share of the minutes, and no other's. Nothing is
    trained, so that the minutes may be plenty for a machine with other things to do."""
    config = change(tiny.density_config(), train=given)
    with molsampler.start(target=gaussian(), out=tmp_path / "run", config=config, progress=False, say=silent) as run:
        planned = run.job.config.train
        for name, number in kept.items():
            assert getattr(planned, name) == number
        for name in {"warm_updates", "updates"} - kept.keys():
            assert getattr(planned, name) > 10  # an update takes a few milliseconds
        assert planned.minutes == 0.2 and run.job.trainer.done == 0
        assert read_toml(run.path / "config.toml", molsampler.DensityConfig()).train == planned


class Angles(Target):
    def __init__(self) -> None:
        super().__init__()
        self.space = Space.of(1, 1)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return x.cos().sum(-1)


class Bare:
    """An object with just these attributes."""

    def __init__(self, **attributes) -> None:
        self.__dict__.update(attributes)


def normal(x: torch.Tensor) -> torch.Tensor:
    return -0.5 * x.square().sum(-1)


REFUSED = {
    "no object": (7, "int is no target: give an object with log_prob"),
    "a function": (normal, "function is no target"),
    "no dim": (Bare(log_prob=normal), "Bare is no target"),
    "a dim of text": (Bare(log_prob=normal, dim="2"), "Bare is no target"),
    "no dimensions": (Bare(log_prob=normal, dim=0), "dimension 0"),
    "angles": (Angles(), "1 angles"),
    "one number": (Bare(log_prob=lambda x: normal(x).sum(), dim=2), "gives () for states (64, 2): return (64,)"),
    "two columns": (Bare(log_prob=lambda x: -x.square(), dim=2), "gives (64, 2)"),
    "numpy": (Bare(log_prob=lambda x: normal(x).detach().numpy(), dim=2), "gives ndarray"),
    "no gradient": (Bare(log_prob=lambda x: normal(x).detach(), dim=2), "cannot be differentiated"),
    "an error": (Bare(log_prob=lambda x: x @ torch.ones(3), dim=2), "fails on states (64, 2) in float32"),
    "double only": (Bare(log_prob=lambda x: normal(x @ torch.eye(2, dtype=torch.float64)), dim=2), "in float32"),
    "nowhere": (Bare(log_prob=lambda x: torch.where(x[:, 0] > 1e6, normal(x), -torch.inf), dim=2), "finite at none"),
    "a centre of another size": (Bare(log_prob=normal, dim=2, centre=[0.0, 1.0, 2.0]), "the centre [0.0, 1.0, 2.0]"),
    "a centre that is not finite": (Bare(log_prob=normal, dim=2, centre=math.nan), "the centre nan"),
    "no extent": (Bare(log_prob=normal, dim=2, extent=0.0), "the extent 0.0 is not positive"),
}


@pytest.fixture
def old(tmp_path) -> Path:
    """A directory with what looks like an old run."""
    for name in ("config.toml", "checkpoint.pt", "samples.npz", "metrics.json"):
        (tmp_path / name).write_text(f"old {name}")
    return tmp_path


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_density_is_refused_before_anything_is_removed(case, old):
    target, words = REFUSED[case]
    before = contents(old)
    with pytest.raises(molsampler.InputError) as refused:
        molsampler.start(target=target, out=old, overwrite=True, say=silent)
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert contents(old) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples": 0}, "samples = 0"),
        ({"samples": 100, "sampler": "smc"}, "100 samples are too few for SMC"),
        ({"sampler": "smc", "train": {"objective": "reverse_kl"}}, "reverse_kl"),
        ({"standardise": "skew"}, "'skew'"),
        ({"device": "cuda"}, "'cuda'"),
        ({"threads": -1}, "threads = -1"),
        ({"train": {"smc": {"chunk": 5}}}, "chunk of 5 steps"),
        ({"train": {"moves": {"kind": "md"}}}, 'moves.kind = "md" needs dynamics'),
        ({"train": {"anneal": {"kernel": "gibbs"}}}, "'gibbs'"),
        ({"train": {"minutes": 0.0}}, "minutes = 0"),
    ],
)
def test_settings_are_refused_before_anything_is_removed(changes, words, old):
    before, config = contents(old), change(molsampler.DensityConfig(), **changes)
    with pytest.raises(molsampler.InputError) as refused:
        molsampler.start(target=gaussian(), out=old, config=config, overwrite=True, say=silent)
    assert words in str(refused.value) and contents(old) == before


def test_a_configuration_of_another_kind_is_refused(tmp_path):
    with pytest.raises(molsampler.InputError, match="a RunConfig: a run of this kind takes a DensityConfig"):
        molsampler.start(target=gaussian(), out=tmp_path / "run", config=molsampler.preset("cpu"))
    with pytest.raises(molsampler.InputError, match="give one of the two"):
        molsampler.start("aldp", target=gaussian())
    assert not (tmp_path / "run").exists()


def test_a_run_belongs_to_its_density(tmp_path):
    """Neither another density nor the door for molecules goes on with it; the right one does."""
    out = tmp_path / "run"
    with started(out) as run:
        run.train()
        run.sample(64)
        for n, sampler, words in ((0, None, "0 samples"), (1.5, None, "1.5 is no number"), (9, "gibbs", "'gibbs'")):
            with pytest.raises(molsampler.InputError, match=words):
                run.sample(n, sampler)
    before = contents(out)
    other = molsampler.Density(lambda x: log_gaussian(x - 1.0), 2, centre=[2.0, 0.0], extent=2.0)
    with pytest.raises(molsampler.InputError, match="a run on another density"):
        molsampler.resume(out, target=other, say=silent)
    with pytest.raises(molsampler.InputError):
        molsampler.resume(out, target=molsampler.Density(normal, 3), say=silent)
    with pytest.raises(molsampler.InputError, match="molsampler.resume\\(out, target=...\\)"):
        molsampler.resume(out, say=silent)
    with pytest.raises(molsampler.InputError, match="already holds a run"):
        started(out)
    assert contents(out) == before
    with molsampler.resume(out, target=gaussian(), say=silent) as run:
        assert run.job.trainer.done == 64


def test_damaged_or_missing_samples_are_told(tmp_path):
    with pytest.raises(molsampler.InputError, match="holds no samples"):
        molsampler.load_samples(tmp_path)
    np.savez(tmp_path / "samples.npz", x=np.zeros((3, 2)), log_weights=np.zeros(3))  # of a classical arm of 0.1.0
    assert molsampler.load_samples(tmp_path).log_prob is None
    (tmp_path / "samples.npz").write_bytes(b"PK torn")
    with pytest.raises(molsampler.InputError, match="cannot be read.*draw them again"):
        molsampler.load_samples(tmp_path)


@pytest.mark.slow
def test_the_page_on_densities_runs_and_is_right(tmp_path, monkeypatch, capsys):
    """docs/DENSITIES.md as it stands, against a long random walk of its own."""
    page = Path(__file__).parents[2] / "docs" / "DENSITIES.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    begun = time.process_time()
    exec(compile(code, str(page), "exec"), names)
    assert time.process_time() - begun < 60.0
    said = capsys.readouterr().out
    assert "beta 5" in said and "log evidence" in said and "P(beta 3 > 0)" in said
    metrics, samples = names["metrics"], names["samples"]
    documented = set(re.findall(r"`([a-z_0-9*]+)`", page.read_text(encoding="utf-8").split("## What comes out")[1]))
    known = documented | {f"{kind}_x{k}" for kind in ("mean", "std") for k in range(1, 6)}
    assert not [name for name in metrics if name not in known and f"{name.split('_')[0]}_*" not in known]
    assert metrics["ess"]["value"] > 0.8 and metrics["log_z_estimate"]["stderr"] < 0.01
    assert sorted(path.name for path in Path("runs/regression").iterdir() if path.suffix == ".png") == [
        "samples.png",
        "training.png",
    ]
    generator, walkers = torch.Generator().manual_seed(1), 2000
    x = torch.as_tensor(samples.x[:walkers]).double()
    log_p, kept = names["log_posterior"](x), []
    for step in range(600):
        proposal = x + 0.12 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        log_q = names["log_posterior"](proposal)
        accepted = torch.rand(walkers, generator=generator, dtype=x.dtype).log() < log_q - log_p
        x, log_p = torch.where(accepted[:, None], proposal, x), torch.where(accepted, log_q, log_p)
        kept += [x] if step % 100 == 99 else []
    means = torch.stack(kept).mean(0).mean(0)
    for k in range(5):
        found = metrics[f"mean_x{k + 1}"]
        error = math.hypot(found["stderr"], float(x[:, k].std()) / walkers**0.5)
        assert abs(found["value"] - float(means[k])) < BOUND * error


@pytest.mark.parametrize("dim", [1, 2, 10])
def test_the_picture_is_drawn_for_any_dimension(dim, tmp_path):
    x = np.random.default_rng(0).normal(size=(500, dim))
    for name, weights in (("with.png", np.full(500, 1 / 500)), ("without.png", None)):
        draw_density_samples(tmp_path / name, x, weights)
        assert (tmp_path / name).stat().st_size > 5000


def test_errors_of_moments_of_passes_are_those_of_passes():
    """64 passes of 100 particles with 4 ancestors each: 256 independent values, whose mean has an error of 1 / 16 and
    whose standard deviation one of 1 / sqrt(512), within a quarter; as many particles without passes state a fifth of
    it."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(64, 4, 1)), 25, axis=1).reshape(-1, 1)
    group, none = np.repeat(np.arange(64), 100), np.zeros(6400)
    of_passes = density.moments(density.DensitySamples(x, none, none, group))
    assert of_passes["mean_x1"].stderr == pytest.approx(1.0 / 16.0, rel=0.25)
    assert of_passes["std_x1"].stderr == pytest.approx(512**-0.5, rel=0.25)
    apart = density.moments(density.DensitySamples(x, none, none))
    assert apart["mean_x1"].stderr == pytest.approx(1.0 / 80.0, rel=0.1)
    assert apart["mean_x1"].value == of_passes["mean_x1"].value
