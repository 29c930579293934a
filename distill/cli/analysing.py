"""What the verbs that look into models do: each reads its options and calls `distill.analysis`."""

from __future__ import annotations

import argparse

from distill.cli.commands import noise_sources
from distill.errors import UsageError

IN_MANIFEST = "supervisions"
"""Where the times of words and phones are if no other place is named."""
MANIFESTS = (".jsonl", ".jsonl.gz")


def run_waveform(options: argparse.Namespace) -> None:
    """`distill probe waveform`."""
    from distill.analysis.probes import waveform, waveform_figures
    from distill.analysis.probes.perturbation_words import parse_perturbations
    from distill.analysis.probes.perturbations import PAPER
    from distill.analysis.recognisers import open_recognisers
    from distill.data.sources import open_cuts

    cuts = waveform.choose_utterances(open_cuts(options.speech), options.utterances, seed=options.seed)
    made_on = open_recognisers([options.made_on])[0] if options.made_on else None
    perturbations = parse_perturbations(
        options.perturb or PAPER,
        noises=noise_sources(options.noise),
        level=options.level,
        absolute=options.absolute,
        steps=options.steps,
        made_on=made_on,
    )
    recognisers = open_recognisers(options.models)
    rows = waveform.probe_waveform(recognisers, cuts, perturbations, seed=options.seed, out=options.out)
    if options.out:
        waveform_figures.draw(rows, options.out)
    print(waveform_figures.tables(rows))


def run_cca(options: argparse.Namespace) -> None:
    """`distill cca`."""
    from distill.analysis.cca.command import compare_layers
    from distill.analysis.cca.layerwise import CcaOptions

    given = [view for view, source in (("phone", options.phones), ("word", options.words)) if source]
    chosen = CcaOptions(
        views=tuple(options.view or ["local", "mel", *given]),
        phones=options.phones or IN_MANIFEST,
        words=options.words or IN_MANIFEST,
        phone_map=options.phone_map,
        layers=tuple(options.layer) if options.layer else None,
        utterances=options.utterances,
        samples=options.samples,
        definition=options.definition,
        seed=options.seed,
    )
    print(
        compare_layers(
            options.checkpoints,
            options.speech,
            chosen,
            options.out,
            random=options.random,
            scores=options.scores,
            protocol=options.protocol,
        )
    )


def run_layers(options: argparse.Namespace) -> None:
    """`distill layers`."""
    from distill.analysis.cca.command import recommend
    from distill.analysis.cca.layerwise import CcaOptions

    sources = {"phone": options.phones, "word": options.words}
    manifest = next((source for source in sources.values() if (source or "").endswith(MANIFESTS)), None)
    speech = options.speech or manifest
    if speech is None:
        raise UsageError("name the speech: --speech MANIFEST, or a manifest with alignments as --words")
    inside = {view: IN_MANIFEST if source in (None, speech) else source for view, source in sources.items()}
    chosen = CcaOptions(
        views=tuple(view for view, source in sources.items() if source),
        phones=inside["phone"],
        words=inside["word"],
        phone_map=options.phone_map,
        most_utterances=options.utterances,
        samples=options.samples,
        seed=options.seed,
    )
    print(recommend(options.checkpoint, speech, chosen, options.out, scores=options.scores))


def run_layer_noise(options: argparse.Namespace) -> None:
    """`distill probe layers`."""
    from distill.analysis.probes import layer_noise, layer_noise_figures
    from distill.analysis.probes.waveform import choose_utterances
    from distill.data.sources import open_cuts

    judges = layer_noise.open_judges(options.models, options.teacher)
    cuts = choose_utterances(open_cuts(options.speech), options.utterances, seed=options.seed)
    rows = layer_noise.probe_layers(
        judges,
        cuts,
        layers=options.layer,
        noises=options.kind or layer_noise.NOISES,
        sigmas=options.sigma or layer_noise.SIGMAS,
        seed=options.seed,
        batch_size=options.batch_size,
        out=options.out,
    )
    if options.out:
        layer_noise_figures.draw(rows, options.out)
    print(layer_noise_figures.tables(rows))


def run_activations(options: argparse.Namespace) -> None:
    """`distill probe activations`."""
    from distill.analysis.models import open_models
    from distill.analysis.probes import activations, activations_figures
    from distill.analysis.probes.waveform import choose_utterances
    from distill.data.noise import NoiseReader
    from distill.data.sources import open_cuts

    cuts = choose_utterances(open_cuts(options.speech), options.utterances, seed=options.seed)
    rows = activations.probe_activations(
        open_models(options.models),
        cuts,
        rhos=options.rho or (() if options.condition else activations.RHOS),
        conditions=options.condition or (),
        reader=NoiseReader(noise_sources(options.noise)),
        layers=options.layer,
        cca=not options.no_cca,
        seed=options.seed,
        batch_size=options.batch_size,
        out=options.out,
    )
    if options.out:
        activations_figures.draw(rows, options.out)
    print(activations_figures.tables(rows))
