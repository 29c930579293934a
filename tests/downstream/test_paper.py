"""The numbers of the paper, and the sizes of its test sets."""

import pytest

from distill.data_prep.iemocap import IEMOCAP
from distill.downstream.paper import TEST_UTTERANCES, condition_order, paper_numbers, size_of_test
from distill.downstream.tasks import TASKS
from tests.downstream.made_results import tables


@pytest.mark.parametrize(
    ("task", "lm", "row", "condition", "printed"),  # read off the printed tables
    [
        ("ks", False, "T1", "clean", "96.30"),
        ("ic", False, "S1", "dns", "48.30"),
        ("er", False, "S8'", "2-dist", "62.88"),
        ("asr", False, "S4'", "clean", "13.7"),
        ("asr", False, "S6", "test-other", "37.37"),
        ("asr", True, "S7", "chime3", "43.44"),
        ("asr", True, "S5'", "2-dist", "12.70"),
    ],
)
def test_the_papers_numbers(task, lm, row, condition, printed):
    assert paper_numbers(task, lm=lm)[row][condition] == printed


@pytest.mark.parametrize(
    ("about", "note"),
    [
        (
            {"task": "er", "fold": 2, "n_utterances": 1085},
            "the paper's test set: 1,085 utterances, not 1,023",
        ),
        (
            {"task": "pr", "metric": "per", "n_utterances": 2600},
            "the corpus's test set: 2,600 utterances, not 2,620",
        ),
        (
            {"task": "slurp_action", "n_utterances": 6539},
            "the corpus's test set: 6,539 utterances, not 13,078",
        ),
        ({"task": "slurp_scenario", "n_utterances": 9}, "the corpus's test set: 9 utterances, not 13,078"),
        ({"task": "asr", "metric": "wer", "n_utterances": 2620, "condition": "test-other"}, "not 2,939"),
    ],
)
def test_every_task_knows_the_size_of_its_test_set(about, note):
    key = about["task"], about.get("metric", "accuracy"), False
    assert any(note in line for line in tables(about)[key].notes)
    condition, fold = about.get("condition", "clean"), about.get("fold")
    right = about | {"n_utterances": size_of_test(about["task"], condition, fold)}
    assert not any("test set" in line for line in tables(right)[key].notes)


def test_every_task_has_a_known_test_set():
    assert TEST_UTTERANCES.keys() == TASKS.keys()
    assert sum(TEST_UTTERANCES["er"].values()) == 5531
    assert [size_of_test("er", "fsd", fold) for fold in range(1, 6)] == [
        split.files for split in IEMOCAP.splits
    ]


def test_conditions_are_sorted_by_the_paper_then_by_name_and_from_the_highest_snr():
    wanted = [
        "clean",
        "2-dist",
        "fsd",
        "dns",
        "dns@0",
        "fsd@20",
        "fsd@10",
        "fsd@5",
        "fsd@0",
        "fsd@-5",
        "ns",
        "pitch",
    ]
    assert sorted(sorted(wanted), key=condition_order) == wanted
    assert sorted(["fsd@loud", "fsd@5"], key=condition_order) == ["fsd@5", "fsd@loud"]
