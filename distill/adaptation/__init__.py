"""Pre-train a HuBERT, or adapt one to a domain: k-means targets, span masks and masked prediction.

The two steps of HuBERT (Hsu et al. 2021): `target_making` gives every frame of a corpus a cluster number
(from MFCC at first, from a layer of a trained HuBERT later), `masked_prediction` trains an encoder to predict
the numbers of masked frames.
"""
