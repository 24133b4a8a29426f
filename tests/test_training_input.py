"""What a stage gets when it asks for an input: records with their fields, of one dataset or of several folders."""

from collections import Counter

import jax
import numpy as np
import pytest
from PIL import Image

from scemae_jax import config as configuration
from scemae_jax.data import sources
from scemae_jax.data.images import DatasetError
from scemae_jax.systems.sce_mae import settings
from scemae_jax.systems.sce_mae.stages import SYSTEM

FIELDS = ("landmarks", "visible", "parts", "occluder", "subject")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Where six training faces are prepared, some with an occluder."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as fewer:
        for split, count in (("train", 6), ("validation", 1), ("test", 2)):
            fewer.setitem(sources.SyntheticFaces.builder_configs["occluded"].images, split, count)
        sources.prepare(sources.dataset_builder("synthetic_faces", data_dir=folder, variant="occluded"), "")
    return folder


def open_experiment(data_dir, workdir, **data):
    config = settings.default()
    config.data.update({"data_dir": str(data_dir), "variant": "occluded", "cache": "device", **data})
    SYSTEM.check_config(config)
    return SYSTEM.open(config, workdir)


def batches(experiment, count, **asked):
    source = experiment.training_input(4, 0, **asked)
    found = [jax.device_get(source.read(source.resident, source.put(experiment.mesh, [b]))) for b in source.draw(count)]
    source.batches.close()
    return found


@pytest.mark.parametrize("cache", ["device", "host", "none"])
def test_records_travel_whole_wherever_they_are_kept(data_dir, tmp_path, cache):
    experiment = open_experiment(data_dir, tmp_path, cache=cache)
    faces = sources.read_faces(experiment.dataset, ["train"], fields=FIELDS)
    truth = {"landmarks": faces.landmarks, "visible": faces.visible, "subject": faces.subjects}
    truth |= {"parts": faces.parts, "occluder": faces.occluder}
    seen = []
    for batch in batches(experiment, 3, fields=FIELDS):
        assert batch["parts"].shape == (4, 136, 136)
        for row, image in enumerate(batch["image"]):
            (which,) = np.flatnonzero((faces.images == image).all(axis=(1, 2, 3)))
            seen.append(which)
            for name, values in truth.items():
                np.testing.assert_array_equal(batch[name][row], values[which], err_msg=name)
    assert Counter(seen) == dict.fromkeys(range(6), 2)
    plain = batches(experiment, 3)  # fields change nothing of the order
    assert plain[0].keys() == {"image"}
    for batch, with_fields in zip(plain, batches(experiment, 3, fields=FIELDS), strict=True):
        np.testing.assert_array_equal(batch["image"], with_fields["image"])


def test_images_are_decoded_once_for_all_stages_that_ask_for_the_same(data_dir, tmp_path, monkeypatch):
    decoded = Counter()

    class Counted(sources.Records):
        def __getitem__(self, index):
            decoded[index] += 1
            return super().__getitem__(index)

    monkeypatch.setattr(sources, "Records", Counted)
    experiment = open_experiment(data_dir, tmp_path)
    first, second = experiment.training_input(4, 0), experiment.training_input(2, 1)
    assert first.resident["image"] is second.resident["image"]
    assert decoded == {0: 2, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1}  # the first one also tells what examples are like
    assert experiment.faces("test") is experiment.faces("test")
    assert experiment.some_unlabelled_faces().images.shape == (6, 136, 136, 3)
    experiment.forget_training_images()
    assert experiment.training_input(4, 0).resident["image"] is not first.resident["image"]


def write_images(folder, greys, csv=""):
    folder.mkdir()
    for grey in greys:
        Image.new("RGB", (20, 20), (grey,) * 3).save(folder / f"{grey}.png")
    if csv:
        (folder / "landmarks.csv").write_text(csv)
    return str(folder)


def greys(found):
    return Counter(np.round(np.concatenate([batch["image"][:, 5, 5, 0] for batch in found]) / 10).astype(int).tolist())


def test_several_folders_are_one_unlabelled_set(data_dir, tmp_path):
    root = write_images(tmp_path / "a", (10, 20, 30, 40))
    table = "file,subject,split,x0,y0\n110.png,eve,test,1,2\n120.png,eve,unlabeled,,\n"
    more = write_images(tmp_path / "b", (100, 110, 120, 130), table)  # 120 is of a person in test
    folders = {"dataset": "landmark_folder", "root": root}
    experiment = open_experiment(data_dir, tmp_path / "run", **folders, more_roots=((more, 2.0),))
    assert experiment.num_images == 6
    assert experiment.left_out == {"test": 1}
    assert greys(batches(experiment, 8)) == {1: 4, 2: 4, 3: 4, 4: 4, 10: 8, 13: 8}
    alone = open_experiment(data_dir, tmp_path / "run", **folders)
    assert greys(batches(alone, 8)) == dict.fromkeys((1, 2, 3, 4), 8)
    assert experiment.data_version.startswith(f"{alone.data_version} and landmark_folder/b-")
    assert not configuration.differences(
        {"data": {"root": root}}, {"data": {"root": root, "more_roots": []}}
    )  # runs from before there were more
    mixed = open_experiment(data_dir, tmp_path / "run", **folders, more_roots=((more, 2),), synthetic_share=0.5)
    assert mixed.num_images == 12
    np.testing.assert_allclose(mixed.unlabelled_images[1], [0.25, 0.25, 0.5])


def test_a_source_and_a_target(data_dir, tmp_path):
    """As domain adaptation needs them: drawn faces with parts, and a folder without annotations."""
    root = write_images(tmp_path / "a", (10, 20, 30, 40))
    experiment = open_experiment(data_dir, tmp_path / "run", dataset="landmark_folder", root=root)
    asked = {"dataset": "synthetic_faces", "splits": ("train",), "fields": ("parts",)}
    (source,), (target,) = batches(experiment, 1, **asked), batches(experiment, 1)
    assert (source.keys(), target.keys()) == ({"image", "parts"}, {"image"})
    assert np.isin(source["parts"], range(11)).all()
    assert greys([target]) == {1: 1, 2: 1, 3: 1, 4: 1}
    with pytest.raises(
        DatasetError, match=r"landmark_folder/a-\w+/2\.0\.0 has no field 'parts'; it has: landmarks, sub"
    ):
        experiment.training_input(4, 0, fields=("parts",))
    with pytest.raises(
        DatasetError, match=r"synthetic_faces/occluded/1\.0\.0 has no split dev; it has: train, validation"
    ):
        experiment.training_input(4, 0, dataset="synthetic_faces", splits=("dev",))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"dataset": "mafl", "more_roots": (("b", 1.0),)},
            "adds to landmark_folder or mask_folder, and config.data.dataset is 'mafl'",
        ),
        ({"more_roots": ("b", 1.0)}, r"holds 'b': write \(\('FOLDER', weight\), \.\.\.\)"),
        ({"more_roots": (("b", "often"),)}, r"holds \('b', 'often'\): write"),
        ({"more_roots": (("b", 0),)}, "gives 'b' the weight 0: choose one above 0"),
        ({"more_roots": (("b", 1), ("b/", 2))}, "'b' is, or is inside, 'b/', so its images would be there twice"),
        ({"more_roots": (("a/left", 1),)}, "'a/left' is, or is inside, 'a', so its images would be there twice"),
        ({"synthetic_share": 1.0}, "synthetic_share is 1.0: choose a share from 0 up to 1"),
    ],
)
def test_mistakes_in_the_config_are_said(data, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_experiment(tmp_path, tmp_path, **{"dataset": "landmark_folder", "root": "a", **data})


def test_a_folder_that_is_not_there_is_said(tmp_path):
    root = write_images(tmp_path / "a", (10,))
    data = {"dataset": "landmark_folder", "root": root, "more_roots": ((str(tmp_path / "no"), 1.0),)}
    with pytest.raises(DatasetError, match=r"no' does not exist; give a folder of images"):
        _ = open_experiment(tmp_path, tmp_path, **data).num_images
