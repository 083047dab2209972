"""TensorCache: rows are returned as they were written or not at all, whichever process created the folder."""

import os
import shutil
from collections import namedtuple

import pytest
import torch

from depth_distill.data import tensor_cache
from depth_distill.data.tensor_cache import Field, TensorCache
from depth_distill.errors import DataError

FIELDS = {"depth_m": Field((1, 2, 3), "float32"), "encoder.layer1": Field((4, 1, 2), "float16")}


def cache(folder, key="a teacher", rows=6, fields=FIELDS):
    return TensorCache(folder / "cache", key, rows, fields)


def tensors(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, *field.shape, generator=generator) for name, field in FIELDS.items()}


def test_rows_come_back_as_they_were_put(tmp_path):
    kept, values = cache(tmp_path), tensors(3)
    kept.put([4, 0, 2], values)
    assert kept.filled == 3
    found = kept.get([2, 4])
    assert torch.equal(found["depth_m"], values["depth_m"][[2, 0]])
    # float16 has 11 significant bits, so rounding is right to 2^-11 of the value.
    torch.testing.assert_close(found["encoder.layer1"], values["encoder.layer1"][[2, 0]], rtol=2**-11, atol=0)
    assert all(value.dtype == torch.float32 for value in found.values())


def test_what_is_read_is_a_copy(tmp_path):
    kept, values = cache(tmp_path), tensors(1)
    kept.put([0], values)
    kept.get([0])["depth_m"].zero_()
    assert torch.equal(kept.get([0])["depth_m"], values["depth_m"])


def test_a_batch_is_there_when_all_of_its_rows_are(tmp_path):
    kept = cache(tmp_path)
    assert kept.get([0]) is None
    kept.put([0, 1], tensors(2))
    assert kept.get([0, 1, 2]) is None
    assert kept.get([1, 0]) is not None


def test_a_row_that_was_not_written_to_the_end_is_not_there(tmp_path):
    kept = cache(tmp_path)
    with pytest.raises(KeyError):
        kept.put([3], {"depth_m": torch.ones(1, 1, 2, 3)})
    assert kept.get([3]) is None


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"key": "another teacher"}, "key"),
        ({"rows": 7}, "rows"),
        ({"fields": FIELDS | {"encoder.layer1": Field((4, 1, 2), "float32")}}, "fields"),
        ({"fields": {"depth_m": FIELDS["depth_m"]}}, "fields"),
    ],
)
def test_a_folder_of_another_cache_is_refused(tmp_path, changed, named):
    cache(tmp_path)
    with pytest.raises(DataError, match=rf"cache holds a cache with another {named}: delete the folder"):
        cache(tmp_path, **changed)


@pytest.mark.parametrize(
    ("value", "name"), [(7e4, "encoder.layer1"), (float("nan"), "depth_m"), (float("inf"), "depth_m")]
)
def test_a_value_that_the_type_cannot_hold_is_refused(tmp_path, value, name):
    kept, values = cache(tmp_path), tensors(2)
    values[name][1].view(-1)[1] = value
    largest = {"depth_m": "3.40282e+38", "encoder.layer1": "65504"}[name]
    with pytest.raises(DataError, match=rf"cannot store {name} as float.*beyond {largest.replace('+', '.')} or NaN"):
        kept.put([0, 1], values)
    assert kept.filled == 0


def test_two_on_one_folder_see_each_others_rows(tmp_path):
    one, other = cache(tmp_path), cache(tmp_path)
    values = tensors(2)
    one.put([0], {name: value[:1] for name, value in values.items()})
    other.put([5], {name: value[1:] for name, value in values.items()})
    for each in (one, other):
        assert each.filled == 2
        assert torch.equal(each.get([0, 5])["depth_m"], values["depth_m"])


def test_a_later_process_finds_what_is_there(tmp_path):
    values = tensors(6)
    cache(tmp_path).put(range(6), values)
    later = cache(tmp_path)
    assert later.filled == 6
    assert torch.equal(later.get(range(6))["depth_m"], values["depth_m"])


def test_the_slower_of_two_that_make_a_folder_takes_the_others(tmp_path, monkeypatch):
    values, rename = tensors(1), os.rename

    def beaten(source, target):
        monkeypatch.setattr(tensor_cache.os, "rename", rename)
        cache(tmp_path).put([2], values)
        rename(source, target)

    monkeypatch.setattr(tensor_cache.os, "rename", beaten)
    kept = cache(tmp_path)
    assert torch.equal(kept.get([2])["depth_m"], values["depth_m"])
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]  # what it had begun is gone


def test_no_room_on_the_disk(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    needed = TensorCache.size_bytes(6, FIELDS)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, needed - 1))
    with pytest.raises(DataError, match=r"cache needs .* GB and the disk has .* GB: cache fewer layers"):
        cache(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, needed))
    kept = cache(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 0))
    with pytest.raises(DataError, match=r"cache needs .* GB and the disk has .* GB"):
        cache(tmp_path)  # files are sparse: what is missing needs room yet
    kept.put(range(6), tensors(6))
    cache(tmp_path)  # what is there needs none


def test_the_size_is_that_of_the_files(tmp_path):
    kept = cache(tmp_path)
    kept.put(range(6), tensors(6))
    size = sum(path.stat().st_size for path in kept.folder.glob("*.bin"))
    assert TensorCache.size_bytes(6, FIELDS) == size == 6 * (1 + 6 * 4 + 8 * 2)
