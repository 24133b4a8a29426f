"""The report of one small run, its measurements, and what they are made from."""

import io

import numpy as np
import pytest
from PIL import Image

from scemae_jax.evaluation.measurement import as_table, select
from scemae_jax.systems.spcl import measuring

pytestmark = pytest.mark.slow


def test_every_parser_is_measured_by_both_classifiers(finished):
    rows = as_table(finished.results["measurements"])
    means = select(rows, metric="mean IoU")
    assert len(means) == 2 * 2 * 3  # stages, classifiers; all, all without hair, landmarks
    assert set(means["n"]) == {5}
    assert (means["deviation"] > 0).all()
    assert "glasses" not in set(select(rows, grouping="all")["part"])
    for confusion in measuring.read(finished.workdir / measuring.CONFUSIONS):
        found = select(
            rows, metric="mean IoU", without=None, method=confusion.method, grouping=confusion.grouping,
            classifier=confusion.classifier or None,
        )  # fmt: skip
        total = confusion.counts.sum(axis=0)
        true = total.sum(axis=1)
        iou = [100 * total[k, k] / (true[k] + total[:, k].sum() - total[k, k]) for k in np.flatnonzero(true)]
        assert found["value"].item() == pytest.approx(np.mean(iou))


def test_the_page_has_its_tables_and_figures(finished):
    folder = finished.workdir / "report"
    page = (folder / "index.html").read_text()
    for text in ("Parts found", "Each part in drawn, classes all", "drawn, all, without hair", "source, nearest prot",
                 "Drawn faces", "Target images", "Classes by method", "What is taken for what", "Adaptation",
                 "Features of pixels by t-SNE", "adapt.contrast.weight"):  # fmt: skip
        assert text in page, text
    names = {"drawn_faces", "target_images", "classes_0", "confusion_0", "adaptation", "features", "curves"}
    assert {path.stem for path in folder.glob("*.png")} == names
    for path in folder.glob("*.png"):
        pixels = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGBA"))
        assert pixels[..., 3].any()
        assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 20
    assert "http" not in page.replace("http://www.w3.org", "")
