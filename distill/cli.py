"""The `distill` command. Verbs parse and delegate; what they do lives in the library."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.errors import UsageError, UserError
from distill.processes import is_follower

EXAMPLES = {
    "demo": "distill demo --out demo",
    "train": "distill train s4 data.root=/corpora trainer.devices=4\n  distill train --resume runs/s4",
    "adapt": "distill adapt mini_teacher",
    "inspect": "distill inspect runs/s4",
    "export": "distill export runs/s4 --to huggingface --out s4-hf",
    "data prepare": "distill data prepare folder --root my_speech --out data/mine",
    "data distort": "distill data distort my_speech distorted --condition musan --noise musan=noises/",
    "probe linear": "distill probe linear runs/s1 runs/s4 --train 'kws.tsv?split=train' \\\n"
    "    --dev 'kws.tsv?split=dev' --test 'kws.tsv?split=test' --condition fsd --noise fsd=noises/",
    "tsne": "distill tsne runs/s1 runs/s4 --speech data/mini/speech_test.jsonl.gz --out tsne.png",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code: 0, 1 (failed), 2 (usage), 130 (Ctrl-C), 143 (SIGTERM)."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)  # of the handler: libraries set their loggers' levels themselves
    logging.basicConfig(format="%(levelname)s %(message)s", handlers=[handler])
    parser = build_parser()
    options, extra = parser.parse_known_args(argv)
    if extra:  # argparse gives up on key=value that follow an option
        if not hasattr(options, "overrides") or any(word.startswith("-") for word in extra):
            parser.error(f"unrecognized arguments: {' '.join(extra)}")
        options.overrides += extra
    if options.run is None:
        parser.print_help()
        return 2
    quiet_libraries()
    try:
        options.run(options)
    except UserError as error:
        if not is_follower():
            print(f"distill: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("distill: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 0
    return 0


def one_line(error: BaseException) -> str:
    """The message alone: an error that crossed from a data worker carries that worker's traceback."""
    line = str(error).strip().splitlines()[-1]
    prefix, _, rest = line.partition(": ")
    return rest if prefix.startswith("distill.errors.") else line


def quiet_libraries() -> None:
    """Keep advice that is not for our users off their screens; warnings of our own stay."""
    import warnings

    warnings.filterwarnings(
        "ignore", module=r"pytorch_lightning|lightning_fabric|torch\.|lhotse|wandb|tensorboard"
    )


def build_parser() -> argparse.ArgumentParser:
    """All verbs with their options."""
    from distill import __version__

    parser = argparse.ArgumentParser(
        prog="distill", description="Distil HuBERT into a small speech model that keeps working in noise."
    )
    parser.add_argument("--version", action="version", version=f"distill {__version__}")
    parser.set_defaults(run=None)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")

    demo = add_verb(verbs, "demo", "the whole story on synthetic speech, offline, in minutes", run_demo)
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything it makes (demo)")

    train = add_verb(verbs, "train", "distil a student", run_train)
    add_run_options(train, "recipe's name (s4, s4_prime, mini) or YAML file")

    adapt = add_verb(verbs, "adapt", "pre-train a teacher, or adapt one to distorted speech", run_train)
    add_run_options(adapt, "recipe's name (t1_prime, mini_teacher) or YAML file")

    inspect = add_verb(verbs, "inspect", "what a checkpoint is", run_inspect)
    inspect.add_argument("checkpoint", help="file, run folder or hub id")

    export = add_verb(verbs, "export", "write a model in another library's format", run_export)
    export.add_argument("checkpoint", help="file or run folder of a student or teacher")
    export.add_argument(
        "--to", required=True, choices=("native", "huggingface"), help="native or huggingface"
    )
    export.add_argument("--out", type=Path, required=True, help="folder to write")

    data = verbs.add_parser("data", help="prepare corpora, materialise distorted test sets")
    data.set_defaults(run=lambda _: data.print_help())
    data_verbs = data.add_subparsers(title="verbs", metavar="VERB")
    prepare = add_verb(data_verbs, "data prepare", "from a corpus on disk to manifests", run_prepare)
    prepare.add_argument("corpus", help="mini (made up, offline) or folder (any folder of audio)")
    prepare.add_argument("--root", type=Path, help="where the corpus is")
    prepare.add_argument("--out", type=Path, required=True, help="folder for the manifests")

    distort = add_verb(data_verbs, "data distort", "materialise a distorted copy of some speech", run_distort)
    distort.add_argument("speech", help="manifest, TSV or folder of audio")
    distort.add_argument("out", type=Path, help="folder for FLAC files and distortions.tsv")
    distort.add_argument("--condition", default="2-dist", help="clean, 2-dist, fsd or dns (2-dist)")
    add_noise_option(distort)
    distort.add_argument("--seed", type=int, default=0, help="another seed, other distortions (0)")

    probe = verbs.add_parser("probe", help="what can be read off a model's representations")
    probe.set_defaults(run=lambda _: probe.print_help())
    probe_verbs = probe.add_subparsers(title="verbs", metavar="VERB")
    linear = add_verb(
        probe_verbs,
        "probe linear",
        "a linear classifier on the last layer, trained on clean speech",
        run_linear,
    )
    linear.add_argument("checkpoints", nargs="+", help="students or teachers")
    for split in ("train", "dev", "test"):
        linear.add_argument(f"--{split}", required=True, help="manifest, TSV or folder with classes")
    linear.add_argument("--label", default="label", help="column or custom field with the class (label)")
    linear.add_argument(
        "--condition", action="append", help="to test under; repeat for several (clean, 2-dist)"
    )
    add_noise_option(linear)
    linear.add_argument("--seed", type=int, default=0, help="another seed, other distortions (0)")

    tsne = add_verb(verbs, "tsne", "t-SNE of the last layer, clean and distorted (Fig. 2)", run_tsne)
    tsne.add_argument("checkpoints", nargs="+", help="students or teachers")
    tsne.add_argument("--speech", required=True, help="manifest, TSV or folder of audio")
    add_noise_option(tsne)
    tsne.add_argument("--out", type=Path, default=Path("tsne.png"), help="picture to write (tsne.png)")
    tsne.add_argument("--seed", type=int, default=0, help="of distortions and t-SNE (0)")
    return parser


def add_verb(verbs: Any, name: str, help: str, run: Any) -> argparse.ArgumentParser:
    """A verb with its help and example."""
    parser = verbs.add_parser(
        name.split()[-1],
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_run_options(parser: argparse.ArgumentParser, what: str) -> None:
    """The options that every training verb has."""
    parser.add_argument("recipe", nargs="?", help=what)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    parser.add_argument("--out", type=Path, help="run folder (runs/NAME)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with an interrupted run")
    parser.add_argument("--print", action="store_true", help="print the resolved recipe and stop")


def add_noise_option(parser: argparse.ArgumentParser) -> None:
    """Where noise is, for verbs that distort."""
    parser.add_argument(
        "--noise",
        action="append",
        default=[],
        metavar="CORPUS=SOURCE",
        help="where musan, wham, fsd, dns or rir recordings are; repeat for several",
    )


def run_demo(options: argparse.Namespace) -> None:
    """`distill demo`."""
    from distill.demo import run_demo as tell

    print(tell(options.out))


def run_train(options: argparse.Namespace) -> None:
    """`distill train` and `distill adapt`."""
    from distill import config

    if options.recipe and "=" in options.recipe:
        raise UsageError(
            f"name a recipe before {options.recipe} (a resumed run keeps the recipe it was started with)"
        )
    if options.resume:
        resolved = options.resume / "recipe.yaml"
        if options.out:
            raise UsageError(f"--resume goes on in {options.resume}: leave --out away")
        if not resolved.is_file():
            raise UserError(f"{options.resume} is not a run folder: it has no recipe.yaml")
        recipe = config.load(str(resolved))
        if options.recipe:
            changes = config.differences(recipe, config.load(options.recipe, options.overrides))
            if changes:
                raise UsageError(f"{options.resume} was started with another recipe: {'; '.join(changes)}")
    elif not options.recipe:
        raise UsageError(f"name a recipe: {', '.join(config.recipe_names())}, or a YAML file")
    else:
        recipe = config.load(options.recipe, options.overrides)
    if options.print:
        print(config.to_yaml(recipe), end="")
        return
    out = options.resume or options.out or Path("runs") / recipe.name
    from distill.training import run

    model = run(recipe, out, resume=options.resume is not None)
    if not is_follower():
        print(model)


def run_inspect(options: argparse.Namespace) -> None:
    """`distill inspect`."""
    from distill.checkpoints import inspect

    print("\n".join(inspect(options.checkpoint).lines()))


def run_export(options: argparse.Namespace) -> None:
    """`distill export`."""
    from distill.checkpoints import export, inspect, load_student, load_teacher

    info = inspect(options.checkpoint)
    model = load_student(options.checkpoint) if info.kind == "student" else load_teacher(options.checkpoint)
    print(export(model, options.to, options.out, provenance=info.provenance))


def run_prepare(options: argparse.Namespace) -> None:
    """`distill data prepare`."""
    from data_prep import CORPORA

    if options.corpus not in CORPORA:
        raise UsageError(f"unknown corpus {options.corpus!r}; there are {', '.join(CORPORA)}")
    print(CORPORA[options.corpus](options.root, options.out))


def run_distort(options: argparse.Namespace) -> None:
    """`distill data distort`."""
    from downstream.distorted_sets import materialise

    sources = noise_sources(options.noise)
    print(materialise(options.speech, options.out, options.condition, sources, seed=options.seed))


def run_linear(options: argparse.Namespace) -> None:
    """`distill probe linear`."""
    from distill.data import NoiseReader, open_cuts
    from downstream.probe import ProbeTask, probe_all

    splits = (open_cuts(source) for source in (options.train, options.dev, options.test))
    task = ProbeTask(*splits, column=options.label)
    noises = NoiseReader(noise_sources(options.noise))
    conditions = options.condition or ["clean", "2-dist"]
    print(probe_all(options.checkpoints, task, conditions, noises, seed=options.seed))


def run_tsne(options: argparse.Namespace) -> None:
    """`distill tsne`."""
    from analysis.tsne import plot

    print(
        plot(
            options.checkpoints, options.speech, noise_sources(options.noise), options.out, seed=options.seed
        )
    )


def noise_sources(pairs: Sequence[str]) -> dict[str, list[str]]:
    """["musan=DIR", ...] -> {"musan": ["DIR"]}."""
    sources: dict[str, list[str]] = {}
    for pair in pairs:
        corpus, equals, source = pair.partition("=")
        if not equals or corpus not in ("musan", "wham", "fsd", "dns", "rir"):
            raise UsageError(f"--noise {pair}: write CORPUS=SOURCE with musan, wham, fsd, dns or rir")
        sources.setdefault(corpus, []).append(source)
    return sources
