"""How heads were trained: one curve for each model."""

import numpy as np

from distill.analysis.head_curves import mean_curve, read_heads
from tests.analysis.made_runs import write_head


def test_heads_of_a_model_are_one_curve_whatever_fold_and_seed(tmp_path):
    heads = tmp_path / "all/s4-1234/heads"
    write_head(heads / "er-fold1-last-seed0", [50, 40, 30])
    write_head(heads / "er-fold2-last-seed0", [40, 20])  # has not come as far
    write_head(heads / "er-fold1-layer-2-seed0", [10, 5])
    write_head(heads / "er-fold1-last-seed0-s3prl-lr0.01", [7, 6])
    write_head(heads / "ks-last-seed1", [9], every=7)
    write_head(tmp_path / "all/s1-5678/heads/ks-last-seed0", [8], every=7)
    (heads / "notes").mkdir()
    found = read_heads([tmp_path / "all", heads.parent])
    assert found.keys() == {"er", "ks"} and found["ks"]["val/error"].keys() == {"s1-5678", "s4-1234"}
    steps, values = found["er"]["val/error"]["s4-1234"]
    assert (steps.tolist(), values.tolist()) == ([10, 20], [45, 30])
    assert found["er"]["val/error"]["s4-1234, layer-2"][1].tolist() == [10, 5]
    assert found["er"]["val/error"]["s4-1234, s3prl-lr0.01"][1].tolist() == [7, 6]
    assert read_heads([tmp_path / "all/s4-1234"])["ks"]["val/error"].keys() == {"s4-1234"}


def test_curves_without_a_common_update_are_not_averaged():
    first = (np.array([1, 2]), np.array([3.0, 4.0]))
    assert mean_curve([first, (np.array([5]), np.array([6.0]))]) is first
