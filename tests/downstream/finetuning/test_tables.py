"""Our word error rates beside the paper's."""

import pytest

from distill.cli import main
from distill.downstream.finetuning.tables import build_spiral_tables, make_spiral_tables
from distill.downstream.results import parse_result
from distill.downstream.tables import build_tables
from distill.errors import UserError
from tests.downstream.finetuning.made_results import pretraining, score, write


def tables(*scores):
    return {table.title.partition(",")[0]: table for table in build_spiral_tables(map(parse_result, scores))}


def row(table, **about):
    wanted = {name: value for name, value in about.items() if name != "label"}
    (found,) = [
        each
        for each in table.rows
        if wanted.items() <= dict(zip(table.about, each.about, strict=True)).items()
        and about.get("label", each.label) == each.label
    ]
    return dict(zip(table.columns, found.cells, strict=True)), found.label


def test_one_run_stands_in_every_table_that_has_its_row():
    found = tables(score("test-clean", 5.0), score("dev-other", 12.0), score("test-other", 11.0))
    for number in ("Table 3", "Table 6"):
        about = {"units": "subword", "lm_units": ""} if number == "Table 6" else {"lm": ""}
        if number == "Table 6":
            about["finetuning"] = "train-clean-100"
        cells, label = row(found[number], model="SPIRAL BASE", **about)
        assert label == "finetune_base_100h"
        assert (cells["test_clean"].mean, cells["test_clean"].paper) == (5.0, "5.4")
        assert (cells["dev_other"].mean, cells["dev_other"].paper) == (12.0, "11.1")
        assert cells["dev_clean"].mean is None and cells["dev_clean"].paper == "5.5"
    for number in ("Table 5", "Table 7"):
        cells, _ = row(found[number], model="SPIRAL BASE", pretrain_mct="no", finetune_mct="no")
        assert (cells["librispeech_other"].mean, cells["librispeech_other"].paper) == (11.0, "11.2")
    assert row(found["Table 8"], teacher_computation_noise="no")[1] == ""
    assert row(found["Table 9"], as_in_paper="SPIRAL BASE")[0]["dev_other"].mean == 12.0
    assert "Other runs: word error rate in %" not in {t.title for t in found.values()}
    assert not any(table.notes for name, table in found.items() if name != "Table 3")


def test_noise_and_channels_have_their_own_columns():
    mct = {"pretrain_mct": True, "pretraining": pretraining(mct=True)}
    ns = {"test": "ns", "snr_db": [0.0, 30.0]}
    found = tables(
        *(score(f"chime3-ch{c}", 10.0 + c, settings=mct) for c in (0, 1, 2, 5)),
        score("ns-other", 16.0, settings=mct | ns, n_utterances=2_939),
    )
    cells, _ = row(found["Table 5"], model="SPIRAL BASE", pretrain_mct="yes", finetune_mct="no")
    assert {name: cells[name].mean for name in cells if "chime" in name} == {
        "chime3_ch0": 10.0,
        "chime3_ch5": 15.0,
        "chime3_ch1": 11.0,
        "chime3_ch2": 12.0,
    }
    assert (cells["chime3_ch5"].paper, cells["chime3_ch1"].paper) == ("33.6", "38.5")
    cells, _ = row(found["Table 7"], model="SPIRAL BASE", pretrain_mct="yes", finetune_mct="no")
    assert (cells["ns_librispeech_other"].mean, cells["ns_librispeech_other"].paper) == (16.0, "15.8")


def test_seeds_are_averaged_with_their_spread():
    scores = [score("test-clean", 5.0 + seed, seed=seed, checkpoint_hash=f"{seed}" * 32) for seed in range(3)]
    cells, _ = row(tables(*scores)["Table 3"], model="SPIRAL BASE", lm="")
    assert cells["test_clean"].ours() == "6.00 (2.00, n=3)"


def test_different_recipes_of_the_same_row_are_not_averaged():
    found = tables(score(), score(value=7.0, recipe="other", checkpoint_hash="b" * 32))["Table 3"]
    assert row(found, model="SPIRAL BASE", lm="", label="other")[0]["test_clean"].mean == 7.0
    assert row(found, model="SPIRAL BASE", lm="", label="finetune_base_100h")[0]["test_clean"].mean == 5.0


def test_what_has_no_row_is_listed_with_the_reason():
    lm = {"lm order": 4, "lm units": "word", "lm": "4.arpa"}
    found = tables(
        score(recipe="mini", settings={"encoder parameters": 12}),
        score(recipe="subword_lm", lm=True, settings=lm),
        score("test-clean", recipe="noisy", settings={"test": "dns"}),
        score("my-test", recipe="mine"),
        score(recipe="no_shift", settings={"pretraining": pretraining(shift=0)}),
    )
    others = found["Other runs: word error rate in %"]
    assert [each.label for each in others.rows] == ["mini", "subword_lm with LM", "noisy", "mine", "no_shift"]
    said = "\n".join(others.notes)
    assert "mini: not SPIRAL BASE or LARGE: spiral encoder, 12 parameters" in said
    assert "subword_lm with LM: no row of the paper with that column: BASE of LS-960, fine-tuned on" in said
    assert "noisy, test-clean: in noise: condition dns" in said and "shift 0" in said
    assert "mine, my-test: no test set of the paper" in said
    published = [table for table in found.values() if table.published]
    assert len(published) == 7 and not any(each.is_measured for table in published for each in table.rows)


def test_seeds_that_differ_in_more_are_not_averaged():
    mini = {"encoder parameters": 12}
    found = tables(
        score(value=10.0, settings=mini),
        score(value=20.0, settings=mini, seed=1, checkpoint_hash="b" * 32),
        score(value=40.0, settings=mini | {"units": "char"}, seed=2, checkpoint_hash="c" * 32),
        score(value=50.0, settings=mini | {"pretraining": None}, seed=3, checkpoint_hash="d" * 32),
    )["Other runs: word error rate in %"]
    assert [each.cells[0].ours() for each in found.rows] == ["15.00 (10.00, n=2)", "40.00", "50.00"]


def test_the_papers_4_gram_is_of_characters():
    lm = {"lm order": 4, "lm units": "word", "units": "char"}
    found = tables(score(lm=True, settings=lm))
    cells, _ = row(found["Table 3"], model="SPIRAL BASE", lm="4-gram")
    assert (cells["test_clean"].mean, cells["test_clean"].paper) == (5.0, "3.3")


def test_other_steps_sizes_and_known_noise_are_noted():
    heard = {"test": "ns", "snr_db": [5.0, 5.0], "noise heard in training": ["dns.jsonl.gz"]}
    before = {"pretraining": pretraining(steps=1_000)}
    found = tables(
        score(head_steps=100, settings=before),
        score("ns-clean", settings=heard | before, head_steps=100, n_utterances=7, heard=["dns"]),
    )["Table 7"]
    said = "\n".join(found.notes)
    assert "fine-tuned for 100 steps, the paper's 80,000" in said
    assert "pre-trained for 1,000 steps, the paper's 200,000" in said
    assert "not the published test set: 7 utterances, not 2,620" in said
    assert "ns_librispeech_clean: trained with dns noise, itself or a teacher of it" in said
    assert "at [5.0, 5.0] dB, the paper's 0 to 30" in said and "may have been heard in training" in said


def test_they_are_in_no_table_of_heads(tmp_path, capsys):
    folder = write(tmp_path / "run", score())
    assert main(["table", str(folder)]) == 1
    assert "all results are of fine-tuned models: their tables are --paper spiral" in capsys.readouterr().err
    assert all(table.task != "finetune" for table in build_tables([parse_result(score())]))


def test_nothing_to_show(tmp_path, capsys):
    empty = write(tmp_path / "run")
    with pytest.raises(UserError, match=r"no word error rates in .*run: make some with `distill finetune`$"):
        make_spiral_tables([empty])
    assert main(["table", str(empty), "--paper", "spiral", "--variant", "paper"]) == 2
    assert "--protocol and --variant are of the tables of --paper cdm" in capsys.readouterr().err
