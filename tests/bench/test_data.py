"""The benchmark of the data loader, on a few files."""

import json

from bench import data


def test_all_figures(tmp_path, capsys):
    path = tmp_path / "data.json"
    data.main(["--files", "5", "--rounds", "1", "--workers", "1", "--json", str(path)])
    found = json.loads(path.read_text())
    assert len(found["in_process"]) == len(found["of_decode"]) == 4
    assert found["of_decode"]["soundfile, bare decode"] == 1.0
    assert all(speed > 0 for speeds in found["in_process"].values() for speed in speeds)
    assert found["eight_workers"] == 8 * found["loader"]["1"]["cpu"][0]
    assert "| ours, clean |" in capsys.readouterr().out
