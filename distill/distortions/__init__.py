"""What noise, rooms and channels do to speech: planned per utterance, applied to padded batches."""

from distill.distortions import additive, band_reject, clipping, pitch, reverb, time_drop
from distill.distortions.distorter import Distorter
from distill.distortions.options import CONDITIONS, VARIANTS, DistortionConfig
from distill.distortions.plan import LABELS, Plan, UtterancePlan

__all__ = [
    "CONDITIONS",
    "LABELS",
    "VARIANTS",
    "DistortionConfig",
    "Distorter",
    "Plan",
    "UtterancePlan",
    "additive",
    "band_reject",
    "clipping",
    "pitch",
    "reverb",
    "time_drop",
]
