"""The paper's tables as they are shipped."""

import pytest

from distill.downstream.finetuning.paper import TABLES, RunKey, rows_of


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.file)
def test_every_column_exists_and_every_number_is_one(table):
    rows = rows_of(table)
    assert rows and set(table.about) | set(table.columns) <= set(rows[0])
    for row in rows:
        for column in table.columns:
            assert row[column] and 0 < float(row[column]) < 100


def test_rows_of_the_same_model_have_the_same_numbers_in_every_table():
    """A row is found by what it is: what two tables say about the same run must agree."""
    found = {}
    for table in TABLES:
        for row in rows_of(table):
            key = table.key(row)
            for column, names in table.columns.items():
                if key is not None:
                    assert found.setdefault((key, names), row[column]) == row[column], (table.number, row)
    assert len(found) > 60


def test_rows_by_what_they_are():
    keys = {table.number: [table.key(row) for row in rows_of(table)] for table in TABLES}
    base, large = RunKey(size="BASE", unlabelled="LS-960"), RunKey(size="LARGE", unlabelled="LL-60k")
    assert base in keys[3] and large in keys[3] and base not in keys[4]
    assert keys[8][0] == keys[9][0] == base
    assert RunKey(size="BASE", unlabelled="LS-960", units="char", lm="4-gram") in keys[3]
    assert RunKey(size="LARGE", unlabelled="LL-60k", finetuning="train-960", frozen=True) in keys[4]
    assert RunKey(size="BASE", unlabelled="LS-960", pretrain_mct=True) in keys[5]
    assert dict(keys[8][2].ablation) == {"teacher masking": "time 0.5, 20; frequency 0.4, 20"}
    assert dict(keys[8][3].ablation) == {"teacher masking": "time 0.25, 20; frequency 0.2, 20"}
    assert dict(keys[9][4].ablation) == {"predictor": "none", "projection": "convolution"}


def test_channels_of_chime3_are_those_of_table_5():
    (table,) = (table for table in TABLES if table.number == 5)
    row = rows_of(table)[-1]
    assert (row["chime3_ch0"], row["chime3_ch5"], row["chime3_ch1"], row["chime3_ch2"]) == (
        "20.0", "31.1", "35.6", "69.5"
    )  # fmt: skip
    assert table.columns["chime3_ch5"] == ("chime3-ch5",)
