"""Canonical correlation analysis of layers: which layer carries what."""

from distill.analysis.cca.correlations import CcaResult, pwcca
from distill.analysis.cca.cross_validation import EPSILONS, FoldScore, Split, cross_validate

__all__ = ["EPSILONS", "CcaResult", "FoldScore", "Split", "cross_validate", "pwcca"]
