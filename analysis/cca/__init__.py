"""Canonical correlation analysis of layers: which layer carries what."""
