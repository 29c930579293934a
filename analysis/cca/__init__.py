"""Canonical correlation analysis of layers: which layer carries what."""

from distill.analysis.cca.correlations import CcaResult, pwcca

__all__ = ["CcaResult", "pwcca"]
