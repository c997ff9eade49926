import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammoflow.train.sampler import GlobalBatches, RankShare

labels = st.lists(st.integers(0, 1), min_size=3, max_size=60).filter(lambda values: len(set(values)) == 2)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 6))  # processes, samples per process and step


def shares(values, world_size, local, mode, seed=5):
    """Each process's batches of epoch 2."""
    result = []
    for rank in range(world_size):
        sampler = GlobalBatches(values, local * world_size, mode=mode, seed=seed, rank=rank, world_size=world_size)
        sampler.set_epoch(2)
        result.append(list(sampler))
    return result


@given(labels, shapes)
def test_natural_takes_each_sample_once_over_all_processes(values, shape):
    drawn = [index for share in shares(values, *shape, "natural") for batch in share for index in batch]
    assert sorted(drawn) == list(range(len(values)))


@given(labels, shapes, st.sampled_from(["natural", "balanced"]))
def test_processes_step_together_and_never_on_an_empty_batch(values, shape, mode):
    per_rank = shares(values, *shape, mode)
    assert len({len(share) for share in per_rank}) == 1
    assert all(batch for share in per_rank for batch in share)
    sizes = [sum(map(len, step)) for step in zip(*per_rank, strict=True)]
    assert max(sizes) - min(sizes) <= 1
    local_sizes = [len(batch) for step in zip(*per_rank, strict=True) for batch in step]
    assert max(local_sizes) - min(local_sizes) <= 1


@given(labels, st.integers(1, 2), st.sampled_from(["natural", "balanced"]))
def test_a_global_batch_is_the_same_for_any_number_of_processes(values, sixth, mode):
    batch_size = 6 * sixth
    expected = None
    for world_size in (1, 2, 3):
        per_rank = shares(values, world_size, batch_size // world_size, mode)
        steps = [sorted(index for batch in step for index in batch) for step in zip(*per_rank, strict=True)]
        expected = expected or steps
        assert steps == expected


@given(labels, shapes)
def test_balanced_draws_both_classes_equally_often(values, shape):
    drawn = [index for share in shares(values, *shape, "balanced") for batch in share for index in batch]
    assert len(drawn) == len(values)
    classes = np.bincount(np.asarray(values)[drawn], minlength=2)
    assert abs(classes[0] - classes[1]) <= 1
    # Within a class nobody comes twice before everybody came once.
    for label in (0, 1):
        times = np.bincount([i for i in drawn if values[i] == label], minlength=len(values))[np.array(values) == label]
        assert times.max() - times.min() <= 1


def test_balanced_batches_are_mixed_on_every_process():
    values = [0] * 90 + [1] * 10
    for share in shares(values, 2, 10, "balanced"):
        assert all(0 < sum(values[index] for index in batch) < len(batch) for batch in share)


def test_epochs_and_seeds_differ():
    sampler = GlobalBatches([0, 1] * 20, 8, mode="natural", seed=1)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    assert first == again != list(sampler)
    assert first != list(GlobalBatches([0, 1] * 20, 8, mode="natural", seed=2))


def test_resume_skips_what_was_seen_once():
    sampler = GlobalBatches([0, 1] * 20, 8)
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.resume(3, 2)
    assert len(sampler) == 5
    assert list(sampler) == whole[2:]
    assert list(sampler) == whole


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(ValueError, match="cannot feed 3"):
        GlobalBatches([0, 1], 3, world_size=3)
    with pytest.raises(ValueError, match="both classes"):
        GlobalBatches([1, 1, 1], 2).draw(0)


@given(st.integers(0, 40), st.integers(1, 5))
def test_validation_sees_each_sample_on_one_process(size, world_size):
    seen = [index for rank in range(world_size) for index in RankShare(size, rank, world_size)]
    assert sorted(seen) == list(range(size))
