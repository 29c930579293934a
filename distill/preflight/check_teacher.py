"""The teacher: whether it can be loaded, or is still to be downloaded."""

from __future__ import annotations

from pathlib import Path

import torch

from distill.checkpoints import huggingface, split_source
from distill.checkpoints import torchaudio as bundles
from distill.checkpoints.loading import open_source
from distill.config import load, recipe_names
from distill.encoder import EncoderConfig
from distill.errors import CheckpointError
from distill.hubert import PRESETS, HubertConfig
from distill.options import AdaptRecipe, Recipe, SpiralRecipe
from distill.preflight.findings import CheckReport, Finding, missing, wrong
from distill.student import Student

_PUBLISHED = {  # presets of what the hub and torchaudio have under these names
    "facebook/hubert-base-ls960": "base",
    "facebook/hubert-large-ll60k": "large",
    "HUBERT_BASE": "base",
    "HUBERT_LARGE": "large",
    "microsoft/wavlm-base": "wavlm_base",
    "microsoft/wavlm-base-plus": "wavlm_base",
    "microsoft/wavlm-large": "wavlm_large",
}
_MEGABYTES = {"base": 378, "large": 1266, "wavlm_base": 378, "wavlm_large": 1262}  # of their float32 weights


def check_teacher(recipe: Recipe, report: CheckReport) -> EncoderConfig | None:
    """Add a finding about the teacher to a report.

    Returns:
        Its architecture, also of a published teacher that is yet to be downloaded; None if it is unknown.
    """
    what = f"teacher: {recipe.teacher}"
    try:
        source, wish = split_source(recipe.teacher)
    except CheckpointError as error:
        report.findings.append(wrong(what, "no such choice", str(error), "correct it"))
        return None
    path = Path(source).expanduser()
    run = not path.exists() and path.parts[:1] == ("runs",)  # "runs/x" reads as a hub id, too
    if run:
        fix = _how_to_train(path.name) if path.name in recipe_names() else f"train {source} first"
        report.findings.append(missing(what, "does not exist", f"{source} does not exist", fix))
        return None
    try:
        if not path.exists() and (bundles.is_bundle(source) or huggingface.is_hub_id(source)):
            folder = _cached(source)
            if folder is None:
                report.findings.append(_not_downloaded(what, source))
                return PRESETS[_PUBLISHED[source]] if source in _PUBLISHED else None
            source = str(folder)
        config = _config(recipe, source, wish)
    except CheckpointError as error:
        state, detail = ("wrong", "cannot be used") if path.exists() else ("missing", "does not exist")
        fix = "set teacher to a checkpoint that can be used"
        report.findings.append(Finding(what=what, state=state, detail=detail, problem=str(error), fix=fix))
        return None
    if (problem := _other_family(recipe, config)) is not None:
        fix = "set teacher to one of the other kind, or use another recipe"
        report.findings.append(wrong(what, "of the wrong kind", problem, fix))
        return None
    detail = f"{config.layers} layers, {config.dim} features"
    detail += ", SPIRAL" if config.family == "spiral" else ""
    detail += ", WavLM" if isinstance(config, HubertConfig) and config.relative_buckets else ""
    report.findings.append(Finding(what=what, state="ok", detail=detail))
    return config


def _how_to_train(recipe: str) -> str:
    """The command for a recipe of ours."""
    return f"distill {'adapt' if load(recipe).kind == 'adapt' else 'train'} {recipe}"


def _config(recipe: Recipe, source: str, normalize_input: bool | None) -> EncoderConfig:
    """The architecture; what is fine-tuned may be a student as well."""
    wanted = "any" if recipe.kind == "finetune" else "teacher"
    model = open_source(source, wanted, normalize_input).model
    if isinstance(model, Student):
        if wanted == "teacher":
            raise CheckpointError(f"{source} holds a student, expected a teacher")
        model = model.encoder
    return model.config


def _other_family(recipe: Recipe, config: EncoderConfig) -> str | None:
    """Why a recipe cannot use a model of this kind; None if it can."""
    if isinstance(recipe, AdaptRecipe) and config.family != "hubert":
        return f"{recipe.teacher} is a SPIRAL encoder, distill adapt trains HuBERT"
    if isinstance(recipe, SpiralRecipe) and config.family != "spiral":
        return f"{recipe.teacher} is a HuBERT or wav2vec 2.0, this recipe pre-trains SPIRAL"
    return None


def _cached(source: str) -> Path | None:
    """The folder of a hub model, or the name of a torchaudio bundle, if it is in the cache."""
    if bundles.is_bundle(source):
        import torchaudio

        bundle = getattr(torchaudio.pipelines, source, None)
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(getattr(bundle, "_path", "") or "none").name
        return Path(source) if bundle is None or file.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "config.json")
    folder = Path(found).parent if isinstance(found, str) else None
    has_weights = folder is not None and any((folder / name).is_file() for name in huggingface.FILES[1:])
    return folder if has_weights else None


def _not_downloaded(what: str, source: str) -> Finding:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE and not bundles.is_bundle(source):
        problem = f"{source} is not in the hub's cache, and HF_HUB_OFFLINE forbids to download it"
        fix = f"hf download {source} (on a machine that is online), or set teacher to a folder or file"
        return missing(what, "not in the cache, and offline", problem, fix)
    size = f", {_MEGABYTES[_PUBLISHED[source]]} MB" if source in _PUBLISHED else ""
    return Finding(what=what, state="note", detail=f"will be downloaded{size}")
