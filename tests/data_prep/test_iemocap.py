"""IEMOCAP: its four classes."""

from distill.data_prep.mini_files import write_lines
from tests.data_prep.corpora import noise, prepared, spoken


def test_iemocap_keeps_four_classes(tmp_path):
    home = tmp_path / "root" / "Session1"
    dialogue = "Ses01F_script01_1"
    emotions = {"F000": "neu", "F001": "exc", "M000": "hap", "M001": "fru", "M002": "xxx", "F002": "ang"}
    notes = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for turn, emotion in emotions.items():
        noise(home / f"sentences/wav/{dialogue}/{dialogue}_{turn}.wav")
        notes += [f"[6.2901 - 8.2357]\t{dialogue}_{turn}\t{emotion}\t[2.5000, 2.5000, 2.5000]"]
        notes += ["C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom  2;\t()", ""]
    write_lines(home / f"dialog/EmoEvaluation/{dialogue}.txt", notes)
    (home / f"dialog/EmoEvaluation/._{dialogue}.txt").write_bytes(b"\0\xff Mac")
    write_lines(
        home / f"dialog/transcriptions/{dialogue}.txt",
        [f"{dialogue}_F000 [006.2901-008.2357]: Excuse me.", f"{dialogue}_M000 [008-009]: Do you have it?"],
    )
    cuts = {cut.id[-4:]: cut for cut in prepared("iemocap", tmp_path / "root", tmp_path / "out")["session1"]}
    labels = {turn: cut.custom["label"] for turn, cut in cuts.items()}
    assert labels == {"F000": "neu", "F001": "hap", "M000": "hap", "F002": "ang"}
    assert cuts["F001"].custom["emotion"] == "exc"
    assert (spoken(cuts["F000"]).text, spoken(cuts["F000"]).speaker) == ("Excuse me.", "Ses01F")
    assert (spoken(cuts["M000"]).text, spoken(cuts["M000"]).speaker) == ("Do you have it?", "Ses01M")
