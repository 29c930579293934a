"""Recipes of two steps on the mini corpora."""

from distill.config import load


def speech_words(mini_data):
    """Speech, and few clusters for it."""
    return [
        f"data.train=[{mini_data}/speech_train.jsonl.gz]",
        f"data.dev=[{mini_data}/speech_dev.jsonl.gz]",
        "targets.clusters=10",
    ]


def adapt_recipe(mini_data, *more):
    return load(
        "mini_teacher",
        [
            *speech_words(mini_data),
            "optim.max_steps=2",
            "validation.every_n_steps=2",
            "data.workers=0",
            "data.batch_size=4",
            "data.max_samples=16000",
            "logging.wandb=off",
            "trainer.accelerator=cpu",
            *more,
        ],
    )
