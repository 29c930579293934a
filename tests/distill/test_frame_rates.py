"""How many frames there are is a matter of the model: nothing else may know numbers of HuBERT base."""

import ast

import pytest

from tests.paths import ROOT

GEOMETRY = {320, 400, 399, 0.02, 200 / 16_000}  # hop and receptive field of HuBERT base
MEAN_SOMETHING_ELSE = {
    "distill/hubert.py",  # the encoder
    "distill/transformer.py",  # the deviation of initial weights
    "distill/training/listening.py",  # a picture of a spectrogram
    "distill/training/flops.py",  # the seconds of a measurement
    "distill/distortions/pitch_at_once.py",  # half the length of a filter
    "analysis/curves.py",  # points of a curve
    "upstream/s3prl_compat.py",  # a silent file
}
FOLDERS = ("distill", "downstream", "analysis", "upstream")


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_frame_geometry_outside_the_encoder(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        if str(path.relative_to(ROOT)) in MEAN_SOMETHING_ELSE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and type(node.value) in (int, float):
                assert node.value not in GEOMETRY, f"{path}:{node.lineno}: take it from the model's config"
