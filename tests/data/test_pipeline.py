import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from scemae_jax.data.pipeline import in_memory, training_batches


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


def test_a_batch_divides_over_the_processes():
    with pytest.raises(ValueError, match="batch_size 4 does not divide over 3 processes"):
        training_batches([Numbers(0, 12)], weights=[1.0], batch_size=4, seed=0, part=0, parts=3)


def test_processes_share_every_batch():
    """The parts of two processes, one after the other, are the batches of one."""
    parts = [
        take(training_batches([Numbers(0, 12)], weights=[1.0], batch_size=4, seed=0, part=part, parts=2), 5)
        for part in range(2)
    ]
    assert [first + second for first, second in zip(*parts, strict=True)] == take(one_source(), 5)


def test_worker_processes_load_the_same_batches():
    """Grain's worker processes need parsed flags, as under `absl.app.run`, and a main module to import."""
    code = """if True:
        from absl import flags
        from test_pipeline import mixed, take, training_batches, Numbers
        if __name__ == "__main__":
            flags.FLAGS(["test"])
            sources, weights = [Numbers(0, 30), Numbers(100, 10)], [0.75, 0.25]
            loaded = training_batches(sources, weights=weights, batch_size=8, seed=0, workers=2)
            there = take(loaded, 5)
            state = loaded.get_state()
            there += take(loaded, 2)
            loaded.set_state(state)
            assert take(loaded, 2) == there[5:]
            loaded.close()
            assert there == take(mixed(), 7), there
            print("the same")
    """
    script = [sys.executable, "-c", code]
    ended = subprocess.run(script, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert ended.stdout == "the same\n", ended.stderr


def test_all_examples_are_loaded_into_memory():
    kept = in_memory(Numbers(100, 150))
    assert len(kept) == 150
    assert kept.arrays["image"][:, 0].tolist() == list(range(100, 250))
    assert kept[7] == {"image": np.array([107])}
