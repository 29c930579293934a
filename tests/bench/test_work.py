"""How fast a device multiplies."""

import torch

from bench.work import gemm


def test_the_product_that_limits():
    product, operations = gemm("cpu", torch.float32)
    assert operations == 2 * 4 * 1536**3
    assert product.device == "cpu"
