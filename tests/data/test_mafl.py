"""The MAFL builder against a miniature of CelebA: which images, in which order, and who is shown."""

import miniature_trees
import numpy as np
import pytest


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("manual")
    return root, miniature_trees.celeba(root)


def test_images_landmarks_subjects_and_order(made, tmp_path):
    root, drawn = made
    examples = miniature_trees.prepare("mafl", root, tmp_path)
    assert {split: len(found) for split, found in examples.items()} == {"train": 10, "validation": 2, "test": 6}
    faces = list(drawn.values())
    for part, splits in (("mafl train", ("train", "validation")), ("mafl test", ("test",))):
        expected = [index for index, face in enumerate(faces) if face.split == part]
        found = []
        for split in splits:
            indices = []
            for example in examples[split]:
                points = [(face.points - (0, 30)) * 136 / 178 for face in faces]
                index = int(np.argmin([np.abs(example["landmarks"] - p).max() for p in points]))
                np.testing.assert_allclose(example["landmarks"], points[index], rtol=1e-6, atol=0)
                error = example["image"] - miniature_trees.resize(faces[index].image[30:208], 136, 136)
                assert np.abs(error).mean() < 1.5  # JPEG, twice; of another face it is over 20
                assert example["subject"] == 1000 + index // 4
                indices.append(index)
            assert indices == sorted(indices)  # CelebA's order, which pairs test images
            found += indices
        assert sorted(found) == expected
    train, validation = ({example["subject"] for example in examples[split]} for split in ("train", "validation"))
    assert len(validation) == 1  # a tenth of six
    assert not train & validation


def test_celeba_and_mafl_share_no_training_image(made, tmp_path):
    """Of the 24, 4 and 12 images of its parts, CelebA keeps those that are not MAFL's, and the whole test part."""
    root, _ = made
    examples = miniature_trees.prepare("celeba_landmarks", root, tmp_path)
    assert {split: len(found) for split, found in examples.items()} == {"train": 12, "validation": 4, "test": 12}
    mafl = miniature_trees.prepare("mafl", root, tmp_path)
    images = {
        name: {example["image"].tobytes() for split in splits for example in source[split]}
        for name, source, splits in (
            ("celeba", examples, ("train", "validation")),
            ("celeba test", examples, ("test",)),
            ("mafl", mafl, ("train", "validation", "test")),
            ("mafl test", mafl, ("test",)),
        )
    }
    assert not images["celeba"] & images["mafl"]
    assert images["mafl test"] < images["celeba test"]
