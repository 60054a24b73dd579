"""What pyproject.toml has no words for: the folder systems/ travels in the distribution as molsampler/systems."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["molsampler*"]), "molsampler.systems"],
    package_dir={"molsampler.systems": "systems"},
)
