"""The examples in docs/distortions.md run, and its pictures are there."""

import io
import re

import soundfile
import torch

from tests.paths import ROOT

DOCS = ROOT / "docs"
TEXT = (DOCS / "distortions.md").read_text(encoding="utf-8")


def test_examples_run():
    from lhotse import CutSet, Recording

    waveforms = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    stream = io.BytesIO()
    soundfile.write(stream, waveforms[0].numpy(), 16_000, format="WAV")
    names = {
        "waveforms": waveforms,
        "waveform": waveforms[0],
        "lengths": torch.tensor([8000, 5000]),
        "noises": list(torch.randn(2, 3000)),
        "rirs": [torch.tensor([1.0, 0.5])] * 2,
        "cuts": CutSet([Recording.from_bytes(stream.getvalue(), "a").to_cut()]),
    }
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    assert len(blocks) == 4
    for block in blocks:
        exec(block, names)
    (cut,) = names["cut_transforms"][0](names["distorted_cuts"])
    assert cut.load_audio().shape == (1, 8000)
    assert names["distorted"].shape == names["waveform"].shape
    dataset = names["Noisy"](list(torch.randn(4, 8000)), [torch.randn(20_000)])
    distorted = torch.stack([dataset[i] for i in range(len(dataset))])
    assert distorted.shape == (4, 8000)
    assert torch.equal(distorted[2], dataset[2])
    assert any(not torch.equal(distorted[i], dataset.waveforms[i]) for i in range(4))


def test_pictures_are_there_and_small():
    pictures = re.findall(r"\]\((img/[^)]+)\)", TEXT)
    assert len(pictures) == 4
    assert all(1000 < (DOCS / picture).stat().st_size < 150_000 for picture in pictures)
