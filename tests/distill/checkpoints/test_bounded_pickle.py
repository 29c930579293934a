"""The limits of the unpickler, one by one; `test_hostile` has whole files."""

import io
import pickle
from collections import OrderedDict

import pytest
import torch

from distill.checkpoints import bounded_pickle, safe_pickle
from distill.checkpoints.bounded_pickle import PickleError


def read(pickled: bytes):
    return safe_pickle._unpickle(io.BytesIO(pickled), lambda saved: saved)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_survive(protocol):
    values = {
        "a": [1, 2.5, None, True, 2**70, -3],
        (1, "b"): {1, 2},
        3: frozenset({"x", (1, 2)}),
        "nested": {"t": (1, (2, (3,))), "e": (), "l": [], "d": {}, "b": b"", "c": 1 + 2j},
        "ordered": OrderedDict(x=1, y=[2]),
        "text": "é\ud800",
        torch.float16: "a type as a key",
        "many": list(range(3000)),
    }
    if protocol < 3:
        values["nested"].pop("b")
    assert read(pickle.dumps(values, protocol)) == values


def test_the_same_object_stays_one():
    shared = [1]
    found = read(pickle.dumps([shared, shared]))
    assert found[0] is found[1]


def test_operations_are_counted(monkeypatch):
    monkeypatch.setattr(bounded_pickle, "MAX_OPERATIONS", 100)
    assert read(pickle.dumps([None] * 80)) == [None] * 80
    with pytest.raises(PickleError, match="more than 100 operations"):
        read(pickle.dumps([None] * 120))


def test_bytes_are_counted(monkeypatch):
    monkeypatch.setattr(bounded_pickle, "MAX_BYTES", 1000)
    assert read(pickle.dumps("x" * 900)) == "x" * 900
    for pickled in (pickle.dumps("x" * 1100), b"c" + b"a" * 1100, b"\x8d" + b"\xff" * 7 + b"\x00"):
        with pytest.raises(PickleError, match="a pickle of more than"):
            read(pickled)


def test_containers_are_measured_as_often_as_they_occur(monkeypatch):
    monkeypatch.setattr(bounded_pickle, "MAX_EXPANDED", 2000)
    shared = list(range(100))
    assert len(read(pickle.dumps([shared] * 15))) == 15
    with pytest.raises(PickleError, match="amount to more than"):
        read(pickle.dumps([shared] * 25))
    deep: list = []
    for _ in range(bounded_pickle.MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(PickleError, match="amount to more than"):
        read(pickle.dumps(deep))


def test_what_stand_ins_hold_is_measured_too():
    bomb = b"]q\x00" + b"0](h\x00h\x00eq\x00" * 60
    with pytest.raises(PickleError, match="amount to more than"):
        read(b"cfairseq\nTask\n(" + bomb + b"tR.")
    with pytest.raises(PickleError, match="amount to more than"):
        read(b"cfairseq\nTask\n)R" + bomb + b"b.")


def test_stand_ins_may_hold_one_another():
    """As omegaconf's nodes do, which know what they are in."""
    found = read(b"comegaconf\nNode\n)Rq\x00}X\x07\x00\x00\x00_parenth\x00sb.")
    assert found.state["_parent"] is found


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"}]K\x01s.", "a key that is a list"),
        (b"}(K\x01u.", "a key without a value"),
        (b"](K\x01K\x01K\x01eK\x01K\x02s.", "sets items of a list"),
        (b"}K\x01a.", "adds to a dict"),
        (b"](K\x01\x90.", "adds to a list"),
        (b"cbuiltins\nstr\nK\x01\x85R.", "calls str"),
        (b"cbuiltins\nlist\n]\x85R.", "calls list"),
        (b"cbuiltins\nint\nX\x01\x00\x00\x001\x85\x81.", "calls int"),
        (b"ccollections\nOrderedDict\n]K\x01a\x85R.", "not pairs"),
        (b"cbuiltins\nset\nX\x02\x00\x00\x00ab\x85R.", "not a list"),
        (b"K\x01K\x02\x85R.", "calls int"),
        (b"cbuiltins\nset\nK\x01R.", "no list of arguments"),
        (b"}}b.", "sets attributes of a dict"),
        (b"\x82\x01.", "extensions or buffers"),
        (b"\x97.", "extensions or buffers"),
    ],
)
def test_what_no_checkpoint_needs(pickled, message):
    with pytest.raises(PickleError, match=message):
        read(pickled)


def test_only_the_versions_of_modules_are_kept_of_a_state_dict():
    found = read(
        b"ccollections\nOrderedDict\n)R}(X\x05\x00\x00\x00itemsK\x01X\x09\x00\x00\x00_metadataK\x02ub."
    )
    assert vars(found) == {"_metadata": 2} and list(found.items()) == []
