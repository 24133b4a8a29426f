"""Any source and target: the stages on miniature scenes, and folders that do not fit one another."""

import miniature_scenes as scenes
import numpy as np
import pytest
from absl import logging

from configs.spcl import folder
from scemae_jax import experiment
from scemae_jax.evaluation.measurement import as_table, select
from scemae_jax.systems.spcl import evaluation_sets, sampling, settings
from scemae_jax.systems.spcl.stages import SYSTEM


def small(asked, source, target, tmp_path, **fields):
    """The config of the folder `asked`, with windows of 40 in scenes of 48x96."""
    config = folder.get_config(asked)
    config.source_data.root, config.data.root = str(source), str(target)
    config.data.data_dir = str(tmp_path / "prepared")
    config.scene_size, config.model.encoder, config.head_width = scenes.SIZE, "XXS/8", 16
    config.model.image_size = config.model.window = 40
    for stage in ("source", "adapt", "self_train"):
        config[stage].batch_size, config[stage].steps, config[stage].log_every = 4, 2, 1
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return config


def run(config, workdir):
    SYSTEM.check_config(config)
    return experiment.run(SYSTEM.open(config, workdir))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spcl", "spcl_paper"])
def test_synthia_to_cityscapes_trains_and_is_measured_on_whole_images(tmp_path, method, monkeypatch):
    root, warned = scenes.cityscapes(tmp_path / "cityscapes"), []
    monkeypatch.setattr(logging, "warning", lambda message, *values: warned.append(message % values))
    sets = (f"cityscapes={root}:val",)
    source, target = scenes.synthia(tmp_path / "synthia"), root / "leftImg8bit" / "train"
    config = small(f"synthia16,{method}", source, target, tmp_path, measure__sets=sets)
    results = run(config, tmp_path / "run")
    assert all(np.isfinite(results[stage]["loss"]) for stage in settings.TRAINED if stage in config.stages)
    assert "scenes" in results["export"]["skipped"]
    assert results["adapt"]["images"] == 4
    assert any("no source mask has sidewalk, " in line for line in warned)
    rows = as_table(results["measurements"])
    assert set(rows["n"]) == {2}
    ious = select(rows, method="source", metric="IoU", classifier=None).set_index("part")["value"]
    assert set(ious.index) == set(scenes.NAMES)  # terrain is no class of SYNTHIA, and val has no wall
    (mean,) = select(rows, method="source", metric="mean IoU", classifier=None)["value"]
    assert mean == pytest.approx(ious.mean())
    assert config.measure.without == ("wall", "fence", "pole")  # of which these images have none


def test_a_test_set_is_measured_to_its_borders_and_in_the_groups_of_classes_csv(tmp_path):
    """A parser that says sea everywhere: all 48x96 pixels of each image count."""
    root = scenes.own(tmp_path / "mine")
    config = small("", root, tmp_path / "target", tmp_path)
    scenes.save(tmp_path / "target" / "a.jpg", scenes.noise(9))
    opened = SYSTEM.open(config, tmp_path / "run")
    network = opened.network
    tested = evaluation_sets.open_set(f"mine={root}::all+merge", opened)
    sea = np.zeros(3, np.float32)
    sea[2] = 1
    counts = tested.confusions(
        lambda images: {"": np.broadcast_to(sea, (*images.shape[:3], 3))}, network.frame, network.parts
    )
    by_name = {grouping.name: (grouping.names, table.sum(axis=0)) for (_, grouping), table in counts.items()}
    names, table = by_name["all"]
    assert names == ("field", "pond", "sea")
    np.testing.assert_array_equal(table, [[0, 0, 4 * 48 * 60], [0, 0, 48 * 36], [0, 0, 3 * 48 * 36]])
    names, table = by_name["merge"]
    assert names == ("ground", "water")
    np.testing.assert_array_equal(table, [[0, 4 * 48 * 60], [0, 4 * 48 * 36]])


def test_a_test_set_of_other_classes_is_refused(tmp_path):
    source, other = scenes.own(tmp_path / "mine"), scenes.own(tmp_path / "other")
    (other / "classes.csv").write_text("value,name\n1,pond\n0,field\n2,sea\n")
    scenes.save(tmp_path / "target" / "a.jpg", scenes.noise(9))
    config = small("", source, tmp_path / "target", tmp_path)
    tested = evaluation_sets.open_set(f"other={other}", SYSTEM.open(config, tmp_path / "run"))
    network = SYSTEM.open(config, tmp_path / "run").network
    with pytest.raises(ValueError, match="other has the classes pond, field, sea, and the parser field, pond, sea"):
        tested.confusions(lambda images: images, network.frame, network.parts)


@pytest.mark.parametrize(
    ("source", "target"), [("a", "a"), ("a", "a/unlabelled"), ("a/labelled", "a"), ("a", "b/../a/images")]
)
def test_source_and_target_in_one_another_are_refused(tmp_path, source, target):
    config = small("", tmp_path / source, tmp_path / target, tmp_path)
    with pytest.raises(ValueError, match=r"are one folder, or one is in the other.*put them into two folders"):
        SYSTEM.check_config(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source_data__root": ""}, "config.source_data.root is empty: name the folder with images/ and masks/"),
        ({"data__root": ""}, "config.data.root is empty: name the folder of the target's images"),
        ({"scene_size": (48, 24)}, r"config.scene_size is \(48, 24\): choose \(height, width\), neither below"),
        ({"source_data__dataset": "synthetic_faces"}, "whose images are faces: choose mask_folder and image_folder"),
        ({"model__window": 36, "model__image_size": 36}, "window is 36: choose a multiple of the patch size 8"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        SYSTEM.check_config(small("", tmp_path / "a", tmp_path / "b", tmp_path, **fields))


def test_a_mask_of_another_size_stops_the_run_and_is_named(tmp_path):
    source = scenes.own(tmp_path / "mine")
    scenes.save(source / "images" / "1.jpg", scenes.noise(0, (96, 48)))
    scenes.save(tmp_path / "target" / "a.jpg", scenes.noise(9))
    config = small("", source, tmp_path / "target", tmp_path)
    with pytest.raises(
        ValueError, match=r"1\.png: has 96x48 pixels, and its image 48x96.*draw the mask on the upright"
    ):
        run(config, tmp_path / "run")


def test_a_workdir_inside_the_target_is_refused(tmp_path):
    config = small("", scenes.own(tmp_path / "mine"), tmp_path / "target", tmp_path)
    scenes.save(tmp_path / "target" / "a.jpg", scenes.noise(9))
    with pytest.raises(ValueError, match="its pictures would be trained on"):
        run(config, tmp_path / "target" / "run")


def test_unknown_words_of_the_config_are_refused():
    with pytest.raises(ValueError, match="name at most one of cityscapes19"):
        folder.get_config("cityscapes19,synthia16")
    with pytest.raises(ValueError, match="unknown method 'cityscapes16'"):
        folder.get_config("cityscapes16")


def test_images_of_rare_classes_come_more_often(tmp_path):
    """Field is in all four images, sea in three, pond in one: shares as in the released code's formula."""
    scenes.save(tmp_path / "target" / "a.jpg", scenes.noise(9))
    run_of = SYSTEM.open(small("", scenes.own(tmp_path / "mine"), tmp_path / "target", tmp_path), tmp_path / "run")
    weights = 1 / np.log(1.01 + np.array([4, 1, 3]) / 8)
    expected = weights / weights.sum()
    has = np.array([[True, k == 3, k < 3] for k in range(4)])
    np.testing.assert_allclose(sampling.shares(has), expected)
    np.testing.assert_array_equal(sampling.shares(np.array([[True, False]])), [1, 0])

    def ponds(**fields):
        config = small("", tmp_path / "mine", tmp_path / "target", tmp_path, data__cache="host", **fields)
        (batch,) = SYSTEM.open(config, run_of.workdir).labelled_input(160, 0).draw(1)
        return float((batch["parts"] == 1).any(axis=(1, 2)).mean())

    assert ponds(source_data__class_balance=False) == pytest.approx(1 / 4)
    assert ponds(source_data__class_balance=True) == pytest.approx(expected[1] + expected[0] / 4, abs=0.03)
