"""What the verbs that look into models do: each reads its options and calls `distill.analysis`."""

from __future__ import annotations

import argparse

from distill.cli.commands import noise_sources


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
