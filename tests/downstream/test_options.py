"""Options of evaluations, as key=value words and back."""

from hypothesis import given
from hypothesis import strategies as st

from distill.downstream.options import EvaluationConfig
from distill.options import LoggingConfig

SOME_TEXT = st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12).filter(
    lambda text: "${" not in text and text != "???"
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 9),
            "lr": st.floats(1e-12, 1e3),
            "steps": st.integers(1, 10**9),
            "label": SOME_TEXT,
            "lexicon": st.lists(SOME_TEXT, min_size=1, max_size=2),
            "conditions": st.lists(st.sampled_from(["clean", "dns"]), min_size=1),
            "sources": st.dictionaries(st.sampled_from(["train-clean-100", "dev-clean"]), SOME_TEXT),
            "noises": st.dictionaries(st.sampled_from(["fsd", "dns"]), st.lists(SOME_TEXT)),
            "trainer": st.just({"devices": 2, "precision": "32"}),
            "logging": st.builds(LoggingConfig, wandb=st.sampled_from(["off", "offline"])),
            "cache": st.sampled_from(["off", "float16"]),
            "row": st.sampled_from(["S4'", "T1"]),
        },
    )
)
def test_options_become_words_and_words_the_same_options(options):
    config = EvaluationConfig(task="pr", **options)
    task, *words = config.to_words()
    assert EvaluationConfig.from_words(task, words) == config


def test_words_are_as_people_write_them():
    config = EvaluationConfig(task="ks", sources={"dev": "a.tsv?split=x"}, lr=1e-4, label="it's", cache="off")
    assert config.to_words() == ["ks", "sources.dev=a.tsv?split=x", "label=it's", "lr=0.0001"]
    assert EvaluationConfig.from_words("ks", ["seed=2"], {"seed": 1, "data": None}).seed == 2
