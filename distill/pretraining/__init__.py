"""Pre-training of SPIRAL, a teacher of one's own (Huang et al. 2022)."""
