from collections import Counter

import numpy as np
import pytest

from scemae_jax.data.pipeline import training_batches


class Numbers:
    """Examples that say who they are."""

    def __init__(self, first, count):
        self.numbers = range(first, first + count)

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        return {"image": np.array([self.numbers[index]])}


def take(batches, count):
    return [next(batches)["image"][:, 0].tolist() for _ in range(count)]


def flat(batches):
    return [number for batch in batches for number in batch]


def one_source(seed=0, batch_size=4):
    return training_batches([Numbers(0, 12)], weights=[1.0], batch_size=batch_size, seed=seed)


def mixed(seed=0):
    return training_batches([Numbers(0, 30), Numbers(100, 10)], weights=[0.75, 0.25], batch_size=8, seed=seed)


def test_every_example_once_an_epoch_in_a_new_order():
    batches = one_source()
    epochs = [flat(take(batches, 3)) for _ in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_batches_run_over_the_end_of_an_epoch():
    """12 examples in batches of 5: none is dropped, and every batch is full."""
    drawn = take(one_source(batch_size=5), 12)
    assert {len(batch) for batch in drawn} == {5}
    assert Counter(flat(drawn)) == dict.fromkeys(range(12), 5)


def test_the_seed_decides():
    assert take(one_source(seed=1), 6) == take(one_source(seed=1), 6)
    assert take(one_source(seed=1), 6) != take(one_source(seed=2), 6)


@pytest.mark.parametrize("make", [one_source, mixed])
@pytest.mark.parametrize("position", [0, 1, 7])
def test_a_position_is_gone_on_from(make, position):
    batches = make()
    take(batches, position)
    state = batches.get_state()
    expected = take(batches, 9)
    fresh = make()
    take(fresh, 3)
    fresh.set_state(state)
    assert take(fresh, 9) == expected


def test_sources_are_mixed_by_weight():
    drawn = flat(take(mixed(), 40))
    first, second = [n for n in drawn if n < 100], [n for n in drawn if n >= 100]
    assert (len(first), len(second)) == (240, 80)
    for source, size in ((first, 30), (second, 10)):
        for epoch in range(8):
            assert len(set(source[epoch * size : (epoch + 1) * size])) == size


def test_errors():
    with pytest.raises(ValueError, match=r"source to train on is empty: sizes \[3, 0\]"):
        training_batches([Numbers(0, 3), Numbers(0, 0)], weights=[0.5, 0.5], batch_size=1, seed=0)


def test_a_batch_divides_over_the_processes(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 3)
    with pytest.raises(ValueError, match="batch_size 4 does not divide over 3 processes"):
        one_source()


def test_processes_share_an_epoch(monkeypatch):
    """Each of two processes sees its half of every global batch."""
    monkeypatch.setattr("jax.process_count", lambda: 2)
    seen = []
    for process in range(2):
        monkeypatch.setattr("jax.process_index", lambda process=process: process)
        batches = take(one_source(), 3)
        assert {len(batch) for batch in batches} == {2}
        seen += flat(batches)
    assert sorted(seen) == list(range(12))
