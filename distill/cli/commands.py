"""What the verbs of `distill` do: each reads its options and calls the library."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.adaptation.targets_options import TargetsOptions
from distill.cli.fields import from_namespace
from distill.errors import UsageError, UserError, refuse_other_settings
from distill.processes import is_first_process


def run_completion(options: argparse.Namespace) -> None:
    """`distill completion`."""
    from distill.cli.completion import completion_script

    print(completion_script(options.parser, options.shell))


def run_demo(options: argparse.Namespace) -> None:
    """`distill demo`."""
    from distill.cli import demo

    print(demo.run_demo(options.out))


def run_train(options: argparse.Namespace) -> None:
    """`distill train`, `distill adapt` and `distill finetune`."""
    from distill import config

    if options.verb == "train" and options.replay:
        return run_replay(options)
    if options.verb == "train" and (options.seeds or (several_named(options) and not options.resume)):
        return train_several(options)
    recipe = resumed_recipe(options) if options.resume else new_recipe(options)
    if options.print:
        print(config.to_yaml(recipe), end="")
        return
    verb = recipe.kind if recipe.kind in ("adapt", "finetune") else "train"
    if options.verb != verb:
        raise UsageError(f"{recipe.name} is a recipe for distill {verb}, not for distill {options.verb}")
    out = options.resume or options.out or Path("runs") / recipe.name
    if verb == "finetune":
        from distill.downstream.finetuning.run import finetune as run
    else:
        from distill.run import run
    model = run(recipe, out, resume=options.resume is not None, other_speech=options.override)
    if is_first_process():
        print(model)


def run_replay(options: argparse.Namespace) -> None:
    """`distill train --replay`."""
    from distill import config
    from distill.run import replay
    from distill.training.run_folder import RunFolder

    if options.recipe or options.resume or options.out or options.seeds or options.override:
        raise UsageError("--replay FILE has the recipe of the file's run folder: give nothing else")
    resolved = RunFolder(options.replay.absolute().parent.parent).recipe
    if not resolved.is_file():
        raise UserError(f"{options.replay} is not in a run folder, expected RUN/nonfinite/step-N.ckpt")
    print(replay(config.read_resolved(resolved), options.replay))


def several_named(options: argparse.Namespace) -> bool:
    """Whether the command line names more than one recipe."""
    return any(map(_names_recipe, options.overrides))


def train_several(options: argparse.Namespace) -> None:
    """`distill train` of several recipes or seeds."""
    from distill import config

    names, changes = recipes_and_changes(options)
    seeds = [_seed(word) for word in options.seeds or [] if "=" not in word]
    if options.resume or options.override:
        raise UsageError("--resume and --override are for one run: several are continued by their command")
    if not names:
        raise UsageError("--seeds: name a recipe, too")
    for what, given in (("recipe", names), ("seed", list(map(str, seeds)))):
        if twice := [one for one in given if given.count(one) > 1]:
            raise UsageError(f"{what} {twice[0]} is given twice")
    if seeds and any(word.startswith("seed=") for word in changes):
        raise UsageError("--seeds and seed=: give one of them")
    parent = options.out or Path("runs")
    runs = []
    for name in names:
        for seed in seeds or [None]:
            recipe = config.load(name, changes if seed is None else [*changes, f"seed={seed}"])
            runs.append((recipe, parent / (recipe.name if seed is None else f"{recipe.name}-seed{seed}")))
    if options.print:
        print("---\n".join(f"# {out}\n{config.to_yaml(recipe)}" for recipe, out in runs), end="")
        return
    from distill.training import several

    for student in several.train_several(runs):
        print(student)


def recipes_and_changes(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The recipes that the command line names, and the changes to all of them."""
    given = [*filter(None, [options.recipe]), *options.overrides]
    changes = [word for word in given if not _names_recipe(word)]
    changes += [word for word in getattr(options, "seeds", None) or [] if "=" in word]
    return [word for word in given if _names_recipe(word)], changes


def _names_recipe(word: str) -> bool:
    """Whether a word is a recipe rather than a change to one, such as a key whose `=` is missing."""
    return "=" not in word and ("." not in word or word.endswith((".yaml", ".yml")))


def _seed(word: str) -> int:
    if not word.isdecimal():
        raise UsageError(f"--seeds takes whole numbers from 0, not {word!r}")
    return int(word)


def new_recipe(options: argparse.Namespace) -> Any:
    """The recipe that the command line names."""
    from distill import config

    if options.override:
        raise UsageError("--override belongs to --resume RUN")
    if not options.recipe:
        raise UsageError(f"name a recipe: {', '.join(config.recipe_names())}, or a YAML file")
    if "=" in options.recipe:
        raise UsageError(f"name a recipe before {options.recipe}")
    return config.load(options.recipe, options.overrides)


def resumed_recipe(options: argparse.Namespace) -> Any:
    """The recipe that the run was started with; with --override, also a changed one."""
    from distill import config
    from distill.training.run_folder import RunFolder

    resolved = RunFolder(options.resume).recipe
    if options.out:
        raise UsageError(f"--resume continues in {options.resume}: leave out --out")
    if not resolved.is_file():
        raise UserError(f"{options.resume} is not a run folder: it has no {resolved.name}")
    name, overrides = options.recipe, options.overrides
    if options.override and name is not None and "=" not in name:  # the run's own need not be readable
        return config.load(name, overrides)
    recipe = config.read_resolved(resolved)
    if name is None or "=" in name:  # changes to the run's own recipe
        name, overrides = str(resolved), [*filter(None, [name]), *overrides]
    changed = config.load(name, overrides)
    made, differences = RunFolder(options.resume).steps_done, config.differences(recipe, changed)
    if options.override and differences and made >= changed.optim.max_steps:
        raise UsageError(
            f"{options.resume} is finished at step {made}, and this would have no effect: "
            f"{'; '.join(differences)}: raise optim.max_steps to go on"
        )
    if not options.override:
        refuse_other_settings(
            options.resume,
            differences,
            advice="to continue with the new ones all the same, add --override",
            error=UsageError,
        )
    return changed


def run_inspect(options: argparse.Namespace) -> None:
    """`distill inspect`."""
    from distill.checkpoints import inspect

    print("\n".join(inspect(options.checkpoint).lines()))


def run_export(options: argparse.Namespace) -> None:
    """`distill export`."""
    from distill.checkpoints import export_checkpoint, push, read_scores
    from distill.waveforms import SAMPLE_RATE  # imports torch

    if options.push_to_hub and options.to != "huggingface":
        raise UsageError(
            f"--push-to-hub uploads Hugging Face folders: it needs --to huggingface, not {options.to}"
        )
    for name, given in (
        ("license", options.license),
        ("scores", options.scores),
        ("results", options.results),
    ):
        if given and options.to != "huggingface":
            raise UsageError(f"--{name} is for the model card of --to huggingface: {options.to} has none")
    if options.seconds is not None and not 0 < options.seconds <= 3600:
        raise UsageError(f"--seconds {options.seconds:g}: more than 0, at most 3600")
    if options.results and options.scores:
        raise UsageError("--results and --scores: the model card takes its scores from one of them")
    if options.results:
        from distill.downstream.card_scores import read_card_scores

        scores = read_card_scores(options.results, options.checkpoint)
    else:
        scores = read_scores(options.scores) if options.scores else None
    written = export_checkpoint(
        options.checkpoint,
        options.to,
        options.out,
        scores=scores,
        license=options.license,
        n_samples=None if options.seconds is None else round(options.seconds * SAMPLE_RATE),
    )
    print(written)
    if options.push_to_hub:
        print(push(written, options.push_to_hub))


def run_prepare(options: argparse.Namespace) -> None:
    """`distill data prepare`."""
    from distill.data.blocks import MOST_JOBS
    from distill.data_prep import CORPORA, PUBLISHED

    name = options.corpus
    if name not in CORPORA:
        raise UsageError(f"unknown corpus {name!r}; choose from {', '.join(CORPORA)}")
    if options.jobs is not None and not 1 <= options.jobs <= MOST_JOBS:
        raise UsageError(f"--jobs {options.jobs}: at least 1, at most {MOST_JOBS}")
    given: dict[str, Any] = {"jobs": options.jobs, "splits": options.split, "shards": options.shards}
    given = {option: value for option, value in given.items() if value is not None}
    if name == "folder" and options.split:
        given["split"] = options.split[-1]
        del given["splits"]
    allowed = {"folder": {"jobs", "split"}, "shar": {"jobs"}} | dict.fromkeys(
        PUBLISHED, {"jobs", "splits", "shards"}
    )
    if unknown := sorted(given.keys() - allowed.get(name, set())):
        raise UsageError(f"corpus {name} has no option --{unknown[0].replace('splits', 'split')}")
    print(CORPORA[name](options.root, options.out, **given))


def run_check(options: argparse.Namespace) -> None:
    """`distill data check`, of a recipe or a task."""
    from distill import config
    from distill.data_prep.advice import how_to_make
    from distill.downstream.options import EvaluationConfig
    from distill.downstream.tasks import TASKS
    from distill.preflight.check import check

    if options.recipe in TASKS:
        from distill.downstream.task_check import check_task

        task = EvaluationConfig.from_words(options.recipe, options.overrides)
        report = check_task(task, options.out or Path("evaluations"), sample=options.sample)
        lacking = "evaluated"
    else:
        recipe = config.load(options.recipe, options.overrides)
        out = options.out or Path("runs") / recipe.name
        report = check(recipe, out, sample=options.sample, how_to_make=how_to_make)
        lacking = "trained"
    print(report)
    if not report.ok:
        raise UserError(f"{report.recipe} cannot be {lacking} yet: see the table above")


def run_profile(options: argparse.Namespace) -> None:
    """`distill profile`."""
    from distill import config
    from distill.training.profiling import profile

    report = profile(config.load(options.recipe, options.overrides), steps=options.steps)
    if is_first_process():  # Lightning starts the whole command once for each process
        print(report)


def run_distort(options: argparse.Namespace) -> None:
    """`distill data distort`."""
    from distill.downstream.materialise import materialise

    sources = noise_sources(options.noise)
    print(
        materialise(
            options.speech,
            options.out,
            options.condition,
            sources,
            seed=options.seed,
            variant=options.variant,
        )
    )


def run_linear(options: argparse.Namespace) -> None:
    """`distill probe linear`."""
    from distill.data.noise import NoiseReader
    from distill.data.sources import open_cuts
    from distill.downstream.probe import ProbeTask, probe_all

    splits = (open_cuts(source) for source in (options.train, options.dev, options.test))
    task = ProbeTask(*splits, column=options.label)
    noises = NoiseReader(noise_sources(options.noise))
    conditions = options.condition or ["clean", "2-dist"]
    print(probe_all(options.checkpoints, task, conditions, noises, seed=options.seed))


def run_invariance(options: argparse.Namespace) -> None:
    """`distill probe invariance`."""
    from distill.analysis.invariance import compare

    noises = noise_sources(options.noise)
    conditions = options.condition or ["2-dist"]
    print(
        compare(options.checkpoints, options.speech, conditions, noises, seed=options.seed, out=options.out)
    )


def run_tsne(options: argparse.Namespace) -> None:
    """`distill tsne`."""
    from distill.analysis.tsne import plot

    noises = noise_sources(options.noise)
    print(plot(options.checkpoints, options.speech, noises, options.out, seed=options.seed))


def run_evaluate(options: argparse.Namespace) -> None:
    """`distill evaluate`."""
    from distill.downstream.evaluate import evaluate
    from distill.downstream.identity import student_folder
    from distill.downstream.options import NAMED_OPTIONS, EvaluationConfig

    given = {key: getattr(options, option.removeprefix("--")) for key, option in NAMED_OPTIONS.items()}
    given["noises"] = noise_sources(given["noises"])
    config = EvaluationConfig.from_words(options.task, options.overrides, given)
    out = options.out or Path("evaluations") / student_folder(options.student)
    paths = evaluate(options.student, config, out)
    if is_first_process():
        results = "1 result" if len(paths) == 1 else f"{len(paths)} results"
        print(f"{results} in {out}/results; tables of them: distill table {out}")


def run_sweep(options: argparse.Namespace) -> None:
    """`distill sweep`."""
    from distill.downstream.sweep import plan_sweep
    from distill.downstream.sweep_running import run_sweep
    from distill.downstream.sweep_slurm import submit, write_slurm

    words = options.students
    jobs = plan_sweep(
        [word for word in words if "=" not in word],
        options.task,
        options.condition,
        data=options.data,
        out=options.out,
        features=options.features,
        seeds=options.seed,
        words=[word for word in words if "=" in word],
        noises=noise_sources(options.noise),
        rates=options.lr,
    )
    if not jobs:
        print("everything is evaluated already")
    elif options.slurm or options.submit:
        script = write_slurm(jobs, options.out, options=options.sbatch)
        print(submit(script) if options.submit else script)
    else:
        run_sweep(jobs)


def run_table(options: argparse.Namespace) -> None:
    """`distill table`."""
    from distill.downstream.finetuning.tables import make_spiral_tables
    from distill.downstream.tables import make_tables

    if options.paper == "spiral":
        if options.protocol or options.variant:
            raise UsageError("--protocol and --variant are of the tables of --paper cdm: leave them out")
        if options.against:
            raise UsageError("--against is of the tables of --paper cdm: leave it out")
        print(make_spiral_tables(options.folders, options.format, measured=options.measured), end="")
        return
    chosen = {"protocol": options.protocol, "variant": options.variant, "against": options.against}
    print(make_tables(options.folders, options.format, measured=options.measured, **chosen), end="")


def run_report(options: argparse.Namespace) -> None:
    """`distill report`."""
    from distill.analysis.report import make_report

    noises = noise_sources(options.noise)
    print(
        make_report(
            options.runs,
            options.out,
            speech=options.speech,
            noises=noises,
            tsne=options.tsne,
            protocol=options.protocol,
            variant=options.variant,
        )
    )


def noise_sources(pairs: Sequence[str]) -> dict[str, list[str]]:
    """["musan=DIR", ...] -> {"musan": ["DIR"]}."""
    from distill.distortions.options import NOISE_CORPORA

    sources: dict[str, list[str]] = {}
    for pair in pairs:
        corpus, equals, source = pair.partition("=")
        if not equals or corpus not in NOISE_CORPORA:
            *others, last = NOISE_CORPORA
            raise UsageError(f"--noise {pair}: write CORPUS=SOURCE with {', '.join(others)} or {last}")
        sources.setdefault(corpus, []).append(source)
    return sources


def run_targets(options: argparse.Namespace) -> None:
    """`distill adapt targets`."""
    from distill.adaptation.command import make_and_report

    print(make_and_report(from_namespace(TargetsOptions, options)))
