"""Noise in the waveform, noise in a layer, and what it does to the layers above."""
