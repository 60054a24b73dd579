"""The synthetic targets by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from molsampler.basis.errors import InputError
from molsampler.targets.conditional import ConditionalTarget, LinearGaussian
from molsampler.targets.cox import CoxProcess
from molsampler.targets.digits import VaeDigits
from molsampler.targets.funnel import Funnel
from molsampler.targets.gaussian_mixture import FAB_STD, gmm25, gmm40
from molsampler.targets.logistic import shipped
from molsampler.targets.many_well import ManyWell
from molsampler.targets.pines import PineSaplings
from molsampler.targets.robot_arm import PlanarArm
from molsampler.targets.student_mixture import StudentMixture
from molsampler.targets.synthetic_target import SyntheticTarget

__all__ = ["CONDITIONAL", "SYNTHETIC", "ConditionalTarget", "SyntheticTarget", "make_synthetic"]

SYNTHETIC: dict[str, Callable[[], SyntheticTarget]] = {
    "gmm40-2d": partial(gmm40, 2),
    "gmm40-5d": partial(gmm40, 5),
    "gmm40-50d": partial(gmm40, 50),
    "gmm40-2d-softplus": partial(gmm40, 2, FAB_STD),
    "gmm25": gmm25,
    "funnel-10d": partial(Funnel, 10),
    "manywell-32d": partial(ManyWell, 32),
    "manywell-64d": partial(ManyWell, 64),
    "student-2d": partial(StudentMixture, 2),
    "student-50d": partial(StudentMixture, 50),
    "robot-arm-4": PlanarArm,
    "cox-16": CoxProcess,
    "cox-40": PineSaplings,
    "logistic-cancer": partial(shipped, "cancer"),
    "logistic-digits": partial(shipped, "digits"),
}


CONDITIONAL: dict[str, Callable[[], ConditionalTarget]] = {
    "linear-gaussian": LinearGaussian,
    "vae-digits": VaeDigits,
}


def make_synthetic(name: str) -> SyntheticTarget | ConditionalTarget:
    """A new target of that name; InputError lists the names there are."""
    known = SYNTHETIC | CONDITIONAL
    if name not in known:
        raise InputError(f"unknown synthetic target '{name}'; choose from {', '.join(known)}")
    return known[name]()
