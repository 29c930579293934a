import torch

from distill.distortions.clips import Clips

GIVEN = [torch.arange(3.0), None, torch.arange(5.0), None]


def same(clips, others) -> bool:
    pairs = list(zip(clips, others, strict=True))
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


def test_clips_are_the_list_they_are_packed_from():
    packed = Clips.pack(GIVEN)
    assert same(packed, GIVEN) and len(packed) == 4 and Clips.pack(packed) is packed
    assert same(packed[1:3], GIVEN[1:3]) and same(packed[1:3][1:], GIVEN[2:3])
    assert packed[2].data_ptr() == packed.samples[3:].data_ptr()  # pyright: ignore


def test_they_travel_in_one_piece():
    moved = Clips.pack(GIVEN).to("meta")
    assert moved[0].is_meta and moved[1] is None and moved.samples.shape == (8,)  # pyright: ignore


def test_no_clip_at_all():
    assert list(Clips.pack([None, None])) == [None, None] and len(Clips.pack([])) == 0
