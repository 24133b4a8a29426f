"""What the target's images come from: folders of different kinds, and for the oracle their masks."""

import jax
import numpy as np
import pytest
from PIL import Image

from scemae_jax.systems.spcl import settings
from scemae_jax.systems.spcl.stages import SYSTEM


@pytest.fixture
def opened(small, drawn_folder, tmp_path):
    """`opened(method, field=value)`: an experiment whose target is the folder of drawn faces with masks."""

    def open_it(method="spcl", **fields):
        target = {"data__dataset": "mask_folder", "data__root": str(drawn_folder), "data__cache": "none"}
        config = small(method, **target, **{"data__unlabelled_splits": ("train",), **fields})
        SYSTEM.check_config(config)
        return SYSTEM.open(config, tmp_path / "workdir")

    return open_it


def one_batch(experiment, source):
    (batch,) = source.draw(1)
    found = jax.device_get(source.read(source.resident, source.put(experiment.mesh, [batch])))
    source.batches.close()
    return found


def test_the_oracle_reads_the_true_masks_of_the_training_split(opened, drawn):
    experiment = opened("oracle")
    batch = one_batch(experiment, experiment.target_with_masks(5, seed=0))
    seen = set()
    for image, parts in zip(batch["image"], batch["parts"], strict=True):
        apart = [np.abs(image.astype(int) - face.image).mean() for face in drawn]  # JPEG changes images a little
        which = int(np.argmin(apart))
        seen.add(which)
        mask = drawn[which].parts[..., 0]
        np.testing.assert_array_equal(parts, np.where(mask == 10, 1, mask))
    assert seen == {0, 2, 4, 6, 8}


def test_without_an_oracle_the_masks_stay_out(opened):
    experiment = opened()
    assert experiment.num_images == 5
    assert one_batch(experiment, experiment.training_input(5, 0)).keys() == {"image"}


def test_folders_of_both_kinds_are_one_target(opened, tmp_path):
    (tmp_path / "plain").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 40), (10 * number, 0, 0)).save(tmp_path / "plain" / f"{number}.png")
    roots = ((str(tmp_path / "plain"), 1.0),)
    experiment = opened(data__more_roots=roots, data__unlabelled_splits=("train", "unlabeled"))
    assert [len(records) for records in experiment.unlabelled_images[0]] == [5, 3]


def test_an_oracle_needs_masks_of_the_same_classes(small, opened, tmp_path):
    config = small("oracle", data__dataset="landmark_folder", data__root=str(tmp_path))
    with pytest.raises(ValueError, match="'landmark_folder', which has none: choose 'mask_folder'"):
        settings.check(config)
    experiment = opened("oracle")
    experiment.dataset.info.metadata["parts"] = ["sky", "road"]
    with pytest.raises(ValueError, match="has masks of sky, road, the source those of background, skin"):
        experiment.target_with_masks(2, seed=0)


@pytest.mark.parametrize("field", ["report__examples", "report__target_pictures", "report__pixels"])
def test_a_number_of_pictures_below_zero_is_refused(small, field):
    name = field.replace("__", ".")
    with pytest.raises(ValueError, match=rf"config\.{name} is -1: choose 0 or more"):
        settings.check(small(**{field: -1}))
