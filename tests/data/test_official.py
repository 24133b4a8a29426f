"""What the official datasets share: counts, missing images, and validation carved from train by names alone."""

import hashlib

import miniature_trees
import numpy as np
import pytest

from scemae_jax.data import sources
from scemae_jax.data.datasets import aflw_m, aflw_r, official, three_hundred_w
from scemae_jax.data.datasets.celeba_landmarks import CUT
from scemae_jax.data.datasets.splits import draw_held_out
from scemae_jax.data.images import DatasetError


def test_the_published_counts():
    assert {name: dict(builder.OFFICIAL_COUNTS) for name, builder in sources.OFFICIAL.items()} == {
        "celeba_landmarks": {"test": 19_962},
        "mafl": {"train": 19_000, "test": 1_000},
        "aflw_m": {"train": 10_122, "test": 2_995},
        "aflw_r": {"train": 10_122, "test": 2_991},
        "three_hundred_w": {"train": 3_148, "test": 689},
    }


@pytest.mark.parametrize(
    ("found", "is_allowed"),
    [((90, 10), True), ((90, 9), False), ((9, 0), True), ((10, 0), False), ((91, 10), False)],
)
def test_counts_are_checked_unless_the_tree_is_a_miniature(found, is_allowed, caplog):
    found = dict(zip(("train", "test"), found, strict=True))
    if is_allowed:
        official.check_counts(found, {"train": 90, "test": 10}, what="the lists")
        assert ("miniature" in caplog.text) == (sum(found.values()) < 10)
    else:
        with pytest.raises(
            DatasetError, match=rf"the lists: found .*{found['test']}}} images, officially .*'test': 10"
        ):
            official.check_counts(found, {"train": 90, "test": 10}, what="the lists")


@pytest.mark.parametrize("module", [aflw_m, aflw_r, three_hundred_w])
def test_the_lists_of_each_dataset_are_counted(module, tmp_path, monkeypatch):
    name = module.__name__.rpartition(".")[2]
    getattr(miniature_trees, name)(tmp_path, n=12)
    tree = module.FILES.find(tmp_path)
    found = {split: len(faces) for split, faces in module.read_splits(tree).items()}
    assert sum(found.values()) == 12
    monkeypatch.setattr(module, "OFFICIAL_COUNTS", found)
    module.read_splits(tree)
    monkeypatch.setattr(module, "OFFICIAL_COUNTS", found | {"test": found["test"] + 1})
    with pytest.raises(DatasetError, match=rf"'test': {found['test']}}} images, officially"):
        module.read_splits(tree)


def test_missing_and_truncated_images_are_errors(tmp_path):
    """The official files are complete: nothing is skipped."""
    miniature_trees.aflw_m(tmp_path / "manual", n=6)
    image = tmp_path / "manual/data/aflw-mtfl/MTFL/AFLW/0005-image20002.jpg"
    content = image.read_bytes()
    image.unlink()
    with pytest.raises(DatasetError, match=r"1 of 6 images are missing, first 'MTFL/AFLW/0005-image20002\.jpg'"):
        miniature_trees.prepare("aflw_m", tmp_path / "manual", tmp_path / "data")
    image.write_bytes(content[:2000])
    with pytest.raises(
        DatasetError, match=r"'AFLW/0005-image20002\.jpg' \(MTFL/testing\.txt row 2\): cannot be decoded"
    ):
        miniature_trees.prepare("aflw_m", tmp_path / "manual", tmp_path / "data")
    assert not any((tmp_path / "data").rglob("dataset_info.json"))


def test_validation_is_a_tenth_by_name_alone():
    names = [f"person {i}" for i in range(200)]
    held_out = draw_held_out(names, 0.1, salt="validation")
    assert len(held_out) == 20
    assert draw_held_out(reversed(names * 2), 0.1, salt="validation") == held_out
    assert draw_held_out(names, 0.1, salt="test") != held_out
    # Lowest hashes: a name leaves only for one that hashes lower still.
    fewer = draw_held_out([name for name in names if name not in sorted(held_out)[:1]], 0.1, salt="validation")
    assert held_out - fewer == set(sorted(held_out)[:1])
    expected = sorted(names, key=lambda name: hashlib.sha256(b"validation\0" + name.encode()).hexdigest())[:20]
    assert held_out == set(expected)


def test_carving_keeps_groups_and_order():
    faces = [official.AnnotatedFace(str(i), "", np.zeros((5, 2)), i, f"group {i // 3}", CUT) for i in range(90)]
    splits = official.carve_validation({"train": faces, "test": faces[:2]})
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [81, 9, 2]
    groups = [{face.group for face in splits[name]} for name in ("train", "validation")]
    assert not groups[0] & groups[1]
    for name in ("train", "validation"):
        assert [face.subject for face in splits[name]] == sorted(face.subject for face in splits[name])
