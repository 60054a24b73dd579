"""The peptide and the angles that the tests of the analysis use too."""

from tests.analysis.conftest import mixture, peptide

__all__ = ["mixture", "peptide"]
