"""What a distortion changes inside a model.

The cosine between clean and distorted speech at each layer; of a run of `distill adapt`, also the share of
masked frames whose cluster it predicts in distorted speech.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from distill import config, markdown
from distill.adaptation.clustering import Clustering
from distill.adaptation.heads import agreement, read_head
from distill.adaptation.masked_prediction import MaskedPrediction
from distill.adaptation.target_making import make_targets
from distill.adaptation.targets import Targets
from distill.analysis.layered import CNN
from distill.analysis.models import OurModel
from distill.analysis.probes.activations import Comparison
from distill.batch import Batch
from distill.checkpoints import load_hubert
from distill.checkpoints.codebooks import load_codebook
from distill.data.manifest import ListedCuts
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.downstream.distorted_sets import DistortedSet
from distill.downstream.embeddings import load_encoders
from distill.encoder import Encoder
from distill.errors import UserError
from distill.options import AdaptRecipe
from distill.training.devices import best_device
from distill.training.run_folder import RunFolder


def compare(
    checkpoints: Sequence[str],
    speech: str,
    conditions: Sequence[str],
    noises: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
    out: Path | None = None,
) -> str:
    """Compare distorted with clean speech: cosines, and masked accuracies of runs of `distill adapt`.

    Args:
        checkpoints: students or teachers.
        speech: manifest, TSV or folder of audio.
        conditions: what to compare with clean speech.
        noises: by corpus, sources of noise.
        seed: of distortions and masks.
        out: picture of the cosines by layer (.png, .pdf, .svg), if wanted.

    Returns:
        Markdown: a table of cosines, a row for each model and condition, and one of masked accuracies.
    """
    if out is not None and out.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"{out}: the picture must end in .png, .pdf or .svg")
    encoders, reader = load_encoders(checkpoints), NoiseReader(noises)
    models = list(encoders.values())
    tests = {
        c: DistortedSet(open_cuts(speech), c, reader, seed=seed, encoders=models)
        for c in ("clean", *conditions)
    }
    cosines: dict[str, dict[str, np.ndarray]] = {name: {} for name in encoders}
    for condition in tqdm(conditions, desc="cosines", unit="condition", disable=None):
        for name, found in layer_cosines(encoders, tests["clean"], tests[condition]).items():
            cosines[name][condition] = found
    text = table_of_cosines(cosines)
    rows = {
        name: masked_accuracies(Path(checkpoint), tests, seed=seed)
        for name, checkpoint in zip(encoders, checkpoints, strict=True)
        if read_head(checkpoint) is not None and (Path(checkpoint) / "targets").is_dir()
    }
    if rows:
        text += "\n\n" + markdown.table(
            ["masked accuracy (%)", *tests],
            [[name, *(f"{100 * value:.1f}" for value in found.values())] for name, found in rows.items()],
        )
    if out is not None:
        draw(cosines, out)
    return text


@torch.no_grad()
def layer_cosines(
    encoders: Mapping[str, Encoder], clean: DistortedSet, distorted: DistortedSet
) -> dict[str, np.ndarray]:
    """Mean over all valid frames of cos(h_l(clean), h_l(distorted)), for l = 0 (transformer input) to L.

    Returns:
        By encoder, (L + 1,).
    """
    models = [OurModel(encoder, name) for name, encoder in encoders.items()]
    found = {m.name: {layer: Comparison() for layer in m.transformer if layer != CNN} for m in models}
    for (cuts, waves, lengths, _), (_, other_waves, _, _) in zip(
        clean.batches(), distorted.batches(), strict=True
    ):
        for model in models:
            layers = found[model.name]
            one, other = (model.activations(w, lengths, layers) for w in (waves, other_waves))
            for layer, comparison in layers.items():
                comparison.add([cut.id for cut in cuts], layer, one, other)
    return {
        name: np.array([comparison.mean("cosine") for comparison in layers.values()])
        for name, layers in found.items()
    }


def masked_accuracies(run: Path, tests: Mapping[str, DistortedSet], *, seed: int = 0) -> dict[str, float]:
    """Share of masked frames whose cluster is predicted: distorted input, clusters of clean speech.

    Args:
        run: folder of a finished `distill adapt`, with its head and codebook.
        tests: by name; "clean" among them.
        seed: of labelling; the masks are the same for all.
    """
    recipe, head = config.load(str(RunFolder(run).recipe)), read_head(str(run))
    assert isinstance(recipe, AdaptRecipe) and head is not None
    codebook = load_codebook(run / "targets" / "train")
    of_layer = recipe.targets.features == "layer"
    module = MaskedPrediction(
        load_hubert(run),
        len(codebook),
        final_dim=len(head["final_proj.weight"]),
        optim=recipe.optim,
        masking=recipe.masking,
    )
    module.load_head(head)
    module.to(best_device())
    with tempfile.TemporaryDirectory() as folder:
        clustering = Clustering(
            n_clusters=len(codebook),
            seed=seed,
            encoder=load_hubert(recipe.teacher) if of_layer else None,
            layer=recipe.targets.layer if of_layer else None,
            model=module.encoder.config,
            codebook=codebook,
        )
        clean = ListedCuts(tests["clean"].cuts)
        targets = make_targets(clean, Path(folder), clustering, devices=[best_device()], progress=False)
    found = {name: agreement(module, _batches(test, targets)) for name, test in tests.items()}
    return {name: result.correct / max(result.frames, 1) for name, result in found.items()}


def _batches(test: DistortedSet, targets: Targets) -> Iterator[Batch]:
    for cuts, waves, lengths, _ in test.batches():
        labels = [torch.from_numpy(targets.labels[cut.id].astype(np.int64)) for cut in cuts]
        padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-1)
        yield Batch([cut.id for cut in cuts], waves, lengths, targets=padded)


def table_of_cosines(cosines: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """A Markdown table, with empty cells where a model has fewer layers."""
    most = max(len(layers) for found in cosines.values() for layers in found.values())
    rows = [
        [name, condition, *(f"{value:.3f}" for value in layers), *[""] * (most - len(layers))]
        for name, found in cosines.items()
        for condition, layers in found.items()
    ]
    return markdown.table(["cosine to clean", "", *(f"layer {layer}" for layer in range(most))], rows)


def draw(cosines: Mapping[str, Mapping[str, np.ndarray]], out: Path) -> None:
    """Draw a panel for each condition, with a line for each model."""
    from matplotlib.figure import Figure

    conditions = list(next(iter(cosines.values())))
    figure = Figure(figsize=(3.6 * len(conditions) + 0.8, 3.4), layout="constrained")
    axes = figure.subplots(1, len(conditions), sharey=True, squeeze=False)[0]
    for axis, condition in zip(axes, conditions, strict=True):
        for (name, found), marker in zip(cosines.items(), "os^Dv*P" * len(cosines), strict=False):
            axis.plot(found[condition], marker=marker, markersize=4, label=name)
        axis.set(title=condition, xlabel="layer (0: transformer input)")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("cosine, clean and distorted")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
