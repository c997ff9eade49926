"""A batch's pixels lie in one piece of memory, hold what the pack holds, and are not copied on the way."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mammoflow import pack, tables
from mammoflow.train import frames
from mammoflow.train.common import JoinedPacks
from mammoflow.train.data import Units, collate
from mammoflow.train.frames import join, read_frames
from mammoflow.train.segment_data import MarkedImages, collate_marked
from mammoflow.train.units import build_units, participants
from training_cohort import write_cohort


@pytest.fixture(scope="module", params=[8, 16])
def packed(request, tmp_path_factory):
    """(manifest, pack) of ten patients, of 8 or 16 bits."""
    root = tmp_path_factory.mktemp("data")
    cohort, store = write_cohort(root, patients=10)
    manifest = tables.read(cohort / "manifest.parquet", "manifest")
    pack.pack(manifest, store, root / "pack", (64, 32), bits=request.param)
    return manifest, pack.PackedImages(root / "pack")


def test_frames_hold_what_tifffile_reads(packed):
    _, images = packed
    found = read_frames(images, images.keys())
    assert found.shape == (40, 1, 64, 32)
    assert found.numpy().dtype == images.dtype
    for key, frame in zip(images.keys(), found, strict=True):
        expected = pack.tifffile.imread(pack.io.BytesIO(images._member(key)))
        assert expected.std() > 0
        np.testing.assert_array_equal(frame[0].numpy(), expected)
        np.testing.assert_array_equal(images[key], expected)


def test_a_place_of_another_shape_is_refused(packed):
    _, images = packed
    with pytest.raises(ValueError, match="is not of shape"):
        images.read_into(images.keys()[0], np.empty((65, 32), images.dtype))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_breasts_are_one_piece_in_any_process(packed, workers):
    manifest, images = packed
    units = build_units(participants(manifest), "breast")
    loader = DataLoader(Units(units, images), batch_size=3, collate_fn=collate, num_workers=workers)
    seen = []
    for batch in loader:
        views = batch["views"]
        assert views.untyped_storage().nbytes() == views.nbytes  # the batch and nothing else: no part was copied out
        for bag, index in enumerate(batch["index"].tolist()):
            mine = views[batch["bag"] == bag]
            assert len(mine) == len(units[index].images) == 2
            for view, key in zip(mine, units[index].images, strict=True):
                np.testing.assert_array_equal(view[0].numpy(), images[key])
            seen.append(index)
    assert seen == list(range(len(units)))


def test_batches_of_marked_images_too(packed):
    _, images = packed
    keys = images.keys()[::3]
    batch = next(iter(DataLoader(MarkedImages(keys, images, {}), batch_size=5, collate_fn=collate_marked)))
    assert batch["views"].untyped_storage().nbytes() == batch["views"].nbytes
    for view, key in zip(batch["views"], keys, strict=False):
        np.testing.assert_array_equal(view[0].numpy(), images[key])


def numbered(samples):
    """:func:`collate`, with how many pieces of memory the loader process has."""
    return {**collate(samples), "pieces": len(frames._pieces)}


def loader_of(packed, collate_fn=numbered, **changes):
    manifest, images = packed
    units = build_units(participants(manifest), "breast") * 10
    options = {"batch_size": 3, "num_workers": 1, "prefetch_factor": 2, "collate_fn": collate_fn, **changes}
    return DataLoader(Units(units, images), **options), units, images


def assert_holds(batch, units, images):
    for bag, index in enumerate(batch["index"].tolist()):
        for view, key in zip(batch["views"][batch["bag"] == bag], units[index].images, strict=True):
            np.testing.assert_array_equal(view[0].numpy(), images[key])


def test_memory_that_was_read_is_used_again(packed):
    loader, units, images = loader_of(packed)
    pieces = []
    for batch in loader:
        assert_holds(batch, units, images)
        pieces.append(batch["pieces"])
        del batch
    assert len(pieces) == 67
    assert max(pieces) <= 2 + 2  # two wait, one is being read, one is being written


def test_memory_that_is_still_read_is_left_alone(packed):
    loader, units, images = loader_of(packed)
    batches = list(loader)
    assert max(batch["pieces"] for batch in batches) == frames.KEPT  # the others got memory of their own
    for batch in batches:
        assert_holds(batch, units, images)


def test_a_part_of_a_batch_keeps_its_memory(packed):
    loader, units, images = loader_of(packed)
    parts = []
    for batch in loader:
        parts.append((int(batch["index"][1]), batch["views"][2:4, :, 1:]))
        del batch
    for index, views in parts:
        for view, key in zip(views, units[index].images, strict=True):
            np.testing.assert_array_equal(view[0].numpy(), images[key][1:])


def test_batches_of_many_sizes_and_a_second_epoch(packed):
    manifest, images = packed
    units = build_units(participants(manifest), "breast")
    sizes = [1, 5, 2, 9, 3] * 5
    batches = [[number % len(units) for number in range(start, start + size)] for start, size in enumerate(sizes)]
    loader = DataLoader(
        Units(units, images), batch_sampler=batches, num_workers=2, collate_fn=numbered, persistent_workers=True
    )
    for stop in (3, None):  # an epoch that is broken off, and a whole one
        for batch in islice(loader, stop):
            assert_holds(batch, units, images)
            assert batch["pieces"] <= 2 + 2


def test_spawned_loader_processes_lend_as_well(packed):
    loader, units, images = loader_of(packed, collate, batch_size=20, multiprocessing_context="spawn")
    for batch in loader:
        assert_holds(batch, units, images)


def test_two_packs_read_as_one(packed):
    _, images = packed
    joined = JoinedPacks([images, images])
    np.testing.assert_array_equal(read_frames(joined, images.keys()[:2]), read_frames(images, images.keys()[:2]))


def test_join_copies_only_what_is_apart():
    whole = torch.arange(24).view(6, 1, 2, 2)
    together = join(whole.split([1, 3, 2]))
    assert together.data_ptr() == whole.data_ptr()
    assert torch.equal(together, whole)
    for parts in ([whole[:2], whole[3:]], [whole[3:], whole[:3]], [whole[:2], whole[2:].clone()]):
        apart = join(parts)
        assert torch.equal(apart, torch.cat(parts))
        assert apart.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr()
    assert join([whole[2:4]]).data_ptr() == whole[2:4].data_ptr()
    assert torch.equal(join([whole[2:4]]), whole[2:4])
