"""Canonical correlation analysis of layers: which layer carries what."""

from distill.analysis.cca.correlations import CcaResult, pwcca
from distill.analysis.cca.cross_validation import cross_validate
from distill.analysis.cca.scoring import EPSILONS, FoldScore
from distill.analysis.cca.segments import Split

__all__ = ["EPSILONS", "CcaResult", "FoldScore", "Split", "cross_validate", "pwcca"]
