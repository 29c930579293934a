"""Pre-train a HuBERT, or adapt one to a domain: k-means targets, span masks and masked prediction.

The two steps of HuBERT (Hsu et al. 2021): `make_targets` gives every frame of a corpus a cluster number
(from MFCC at first, from a layer of a trained HuBERT later), `MaskedPrediction` trains an encoder to
predict the numbers of masked frames.
"""

from distill.adaptation.masked_prediction import MaskedPrediction
from distill.adaptation.masking import span_mask
from distill.adaptation.targets import Targets, make_targets

__all__ = ["MaskedPrediction", "Targets", "make_targets", "span_mask"]
