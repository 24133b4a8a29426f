"""The pictures of a report of SCE-MAE, and its tables."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest

from scemae_jax.data.record import Faces
from scemae_jax.evaluation.measurement import Measurement
from scemae_jax.evaluation.representation import Embedded
from scemae_jax.faces.landmarks import FIVE
from scemae_jax.model import Model
from scemae_jax.models.mae import mask_by_noise
from scemae_jax.report import figures
from scemae_jax.report.table import measured
from scemae_jax.systems.sce_mae import pictures
from scemae_jax.systems.sce_mae.tables import tables


@pytest.fixture(scope="module")
def masked(small_architecture):
    """Images in [0, 1], and a mask of half of their patches."""
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(2, 96, 96, 3)).astype(np.float32)
    mask = np.asarray(mask_by_noise(rng.uniform(size=(2, 144)), 0.5).mask)
    hidden = np.repeat(np.repeat(mask.reshape(2, 12, 12), 8, axis=1), 8, axis=2).astype(bool)
    return images, mask, hidden


def test_pasting_keeps_visible_patches_exactly(small_architecture, masked):
    images, mask, hidden = masked
    reconstruction = np.random.default_rng(1).normal(size=(2, 144, 192)).astype(np.float32)
    whole = np.asarray(pictures.pasted(small_architecture, jnp.asarray(images), reconstruction, mask))
    np.testing.assert_array_equal(whole[~hidden], images[~hidden])
    assert (whole[hidden] != images[hidden]).mean() > 0.9
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_pasting_undoes_the_targets_statistics(small_architecture, masked):
    images, mask, _ = masked
    mean, std = np.array(small_architecture.backbone.mean), np.array(small_architecture.backbone.std)
    patches = ((images.astype(np.float64) - mean) / std).reshape(2, 12, 8, 12, 8, 3).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(2, 144, 192)
    target = (patches - patches.mean(-1, keepdims=True)) / np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
    whole = pictures.pasted(small_architecture, jnp.asarray(images), target.astype(np.float32), mask)
    np.testing.assert_allclose(whole, images, atol=1e-5)  # a perfect decoder gives the image back


def test_selections_are_those_of_stage_two(small_model):
    images = np.random.default_rng(0).uniform(size=(2, 96, 96, 3)).astype(np.float32)
    for selection in pictures.selections(small_model, images):
        assert selection.attentive.sum() == 36
        assert selection.cluster[selection.centres].tolist() == [0, 1, 2, 3]
        np.testing.assert_array_equal(selection.cluster == -1, selection.attentive)


def test_similarity_map_is_the_cosine_everywhere():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 96, 96, 8)).astype(np.float32)  # as large as the window: no interpolation
    maps[1, 70, 30] = 5 * maps[0, 20, 50]
    found = np.asarray(pictures.cosine_maps(maps[0], maps, np.array([[50, 20]])))[0]
    unit = maps / np.linalg.norm(maps, axis=-1, keepdims=True)
    np.testing.assert_allclose(found, unit @ unit[0, 20, 50], atol=1e-5)


@pytest.fixture(scope="module")
def few_faces():
    rng = np.random.default_rng(0)
    return Faces(
        images=rng.integers(0, 256, (6, 136, 136, 3), np.uint8),
        landmarks=rng.uniform(30, 100, (6, 68, 2)).astype(np.float32),
        subjects=np.array([0, 0, 0, 1, 1, 2]),
    )


def test_as_many_people_as_there_are(few_faces):
    for seed in range(5):
        assert sorted(pictures.different_people(few_faces, 3, seed).subjects) == [0, 1, 2]
        everyone = pictures.different_people(few_faces, 9, seed)
        assert sorted(everyone.landmarks[:, 0, 0]) == sorted(few_faces.landmarks[:, 0, 0])
    assert len({pictures.different_people(few_faces, 3, seed).images.tobytes() for seed in range(5)}) > 1


def test_query_points_of_any_scheme():
    landmarks = np.arange(2 * 98 * 2, dtype=np.float32).reshape(2, 98, 2)
    assert pictures.query_points(landmarks).points.shape == (2, 5, 2)
    few = pictures.query_points(landmarks[:, :3])
    assert few.points.tolist() == few.truth.tolist() == (landmarks[:, :3] - 20).tolist()
    assert few.names == ("point 1", "point 2", "point 3")
    none = pictures.query_points(landmarks[:, :0])
    assert none.points.shape == none.truth.shape == (2, 5, 2)
    assert np.isnan(none.truth).all()
    assert ((none.points > 0) & (none.points < 96)).all()


def drawn(faces, small_model, **changes):
    """The sections of the pictures."""
    backbone = Model(architecture=small_model.architecture, params={"encoder": small_model.params["encoder"]})
    content = {"faces": faces, "mae": backbone, "model": small_model, "detectors": {}, "results": {}, "examples": 2}
    return [picture.section for picture in pictures.pictures(**(content | {"seed": 0} | changes)).values()]


def test_what_is_drawn_is_what_there_is(few_faces, small_architecture, small_model, random_params):
    noise = np.zeros((1, 144), np.float32)
    params = random_params(small_architecture.build_mae(), np.zeros((1, 96, 96, 3), np.float32), noise)
    asked = []

    def detector(images):
        asked.append(images.shape)
        return np.full((len(images), 68, 2), 60.0)

    mae = Model(architecture=small_architecture, params=params)
    every = ["Reconstructions", "Attentive patches and clusters", "Similarity to a point",
             "Landmarks matched across people", "Detected landmarks"]  # fmt: skip
    assert drawn(few_faces, small_model, mae=mae, detectors={68: detector}) == every
    assert asked == [(2, 136, 136, 3)]
    assert drawn(few_faces, small_model, examples=1) == every[1:3]  # no decoder, and nobody to match with
    nobody = dataclasses.replace(few_faces, landmarks=few_faces.landmarks[:, :0])
    detectors = {5: lambda images: pytest.fail("nothing to compare with")}
    assert drawn(nobody, small_model, detectors=detectors) == every[1:4]
    with pytest.raises(ValueError, match="0 asked for"):
        drawn(few_faces, small_model, examples=0)


def rows(stage, metric, values, **fields):
    """{(method, *names of fields): value}"""
    return [
        Measurement.of(metric=metric, method=method, value=value, landmarks=5, split="test", **variant, **fields).row(
            stage=stage
        )
        for (method, variant), value in values
    ]


SILHOUETTES = rows("represent", "silhouette", [
    (("MAE only", {"space": "feature space"}), 0.40312), (("MAE only", {"space": "t-SNE"}), 0.5127),
    (("SCE-MAE", {"space": "feature space"}), 0.61249), (("SCE-MAE", {"space": "t-SNE"}), 0.51271),
], n=10)  # fmt: skip


def test_the_panels_are_headed_by_their_silhouettes(monkeypatch):
    panels = {}
    monkeypatch.setattr(
        figures, "embeddings", lambda points, labels, names: panels.update(points, names=names) or figures.Figure()
    )
    embedded = Embedded(np.array([0, 4]), {"MAE only": np.zeros((2, 2)), "SCE-MAE": np.ones((2, 2))})
    picture = pictures.embedding_pictures(embedded, measured({"measurements": SILHOUETTES}))["embeddings"]
    assert panels.pop("names") == FIVE.names
    assert panels.keys() == {"MAE only: silhouette 0.51", "SCE-MAE: silhouette 0.51"}
    assert "means over 10 t-SNE" in picture.caption


def test_tables_of_all_that_was_measured():
    cases = [("SCE-MAE", "same", 0.5), ("SCE-MAE", "different", 3.9)]
    found = rows("match", "matching error", [((m, {"case": case}), v) for m, case, v in cases], unit="px")
    found += rows("match", "matching error", [(("SCE-MAE", {"case": "same", "position_free": True}), 0.6)], unit="px")
    found += rows("match", "matching error", [(("SCE-MAE", {"case": "same", "random_pairings": 5}), 0.7)], unit="px")
    found += rows("match", "clamped queries", [(("", {}), 1203)])
    found += rows("detect", "detection error", [(("mean shape", {}), 30.36), (("SCE-MAE", {}), 9.1)], unit="%")
    few = [(("SCE-MAE", {"head": head, "annotated_images": n}), n) for head in ("plain", "linear") for n in (1, 10)]
    found += rows("few_shot", "detection error", few, unit="%")
    facts = {"split": "test", "images": 742, "stride": 4}
    results = {
        "match": facts | {"pairs": 371, "pairs_of_one_person": 5, "warp_seed": 0},
        "detect": facts | {"annotated_images": 900}, "few_shot": facts,
        "represent": facts | {"count": 197, "perplexity": 30.0, "repeats": 10},
        "measurements": found + SILHOUETTES,
    }  # fmt: skip
    match, detect, few, represent = tables(results)
    assert match.title == "Landmark matching, 5 landmarks"
    assert re.search(
        r"pixels .* 371 pairs \(1,203 queries clamped to the window\) of split test, stride 4", match.about
    )
    assert "Different: two images, in 5 pairs of one person." in match.remark
    assert match.grid().cells().to_dict("index") == {
        "SCE-MAE": {"same": "0.50", "different": "3.90"},
        "SCE-MAE, position-free": {"same": "0.60", "different": "–"},
        "SCE-MAE, 5 random pairings": {"same": "0.70", "different": "–"},
    }
    assert detect.about == "error in %, 742 images of split test"
    assert detect.headlines == {"5 landmarks": "5 landmarks detected"}
    assert detect.grid().cells().to_dict("index") == {
        "mean shape": {"5 landmarks": "30.36"},
        "SCE-MAE": {"5 landmarks": "9.10"},
    }
    assert few.grid().cells().to_dict("index")["SCE-MAE, linear"] == {
        "1 annotated image": "1.00",
        "10 annotated images": "10.00",
    }
    assert represent.about == "silhouettes of 197 features of 5 landmarks in 742 images of split test, stride 4"
    assert represent.grid().best.to_numpy().tolist() == [[False, True], [True, True]]  # the highest, as printed
    assert list(pictures.few_annotations_pictures(measured(results))) == ["few_shot_5"]
    assert tables({}) == tables({"match": {"skipped": "nothing annotated"}, "measurements": []}) == []
