"""SPIRAL (Huang et al., ICLR 2022): perturbation-invariant representations, one every 80 ms."""

from distill.spiral.encoder import SpiralConfig, SpiralEncoder

__all__ = ["SpiralConfig", "SpiralEncoder"]
