"""The folder builder against planted marks and colours, hand-made tables, and every bad input."""

import io
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_images import encode, noise, plain

from scemae_jax.data import formats
from scemae_jax.data.datasets import landmark_folder as builder
from scemae_jax.data.datasets.landmark_folder import LandmarkFolder, folder_config
from scemae_jax.data.formats import Face, assign_splits, number_subjects, read_folder
from scemae_jax.data.images import BACKGROUND, DatasetError, prepare_face

YTF68 = Path(__file__).parents[3] / "shared" / "data" / "ytf68"
NO_LANDMARKS = np.zeros((0, 2))


def landmark_folder(root, *, data_dir):
    dataset = LandmarkFolder(config=folder_config(root), data_dir=data_dir)
    dataset.download_and_prepare()
    return dataset


def write_folder(root, files, csv=None):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    if csv is not None:
        (root / "landmarks.csv").write_text(textwrap.dedent(csv).lstrip())
    return root


def read_all(dataset):
    return {name: list(dataset.as_data_source(name)) for name in dataset.info.splits}


# --- the table


def test_every_kind_of_image_keeps_its_colour(tmp_path):
    red = (200, 60, 20)
    sixteen_bit = np.full((20, 20), 51400, np.uint16)  # 200 * 257
    cmyk = Image.new("CMYK", (20, 20), (255 - 200, 255 - 60, 255 - 20, 0))
    half_clear = Image.new("RGBA", (20, 20), (*red, 0))
    palette_with_clear = Image.new("P", (20, 20), 0)
    palette_with_clear.putpalette([1, 2, 3])
    expected = {
        "a.jpg": (encode(plain(), "JPEG", quality=95), red),
        "b.JPEG": (encode(plain(), "JPEG", quality=95), red),
        "c.PNG": (encode(plain().quantize(4)), red),
        "d.webp": (encode(plain(), "WEBP", lossless=True), red),
        "deep/er/e.png": (encode(Image.new("L", (20, 20), 200)), (200,) * 3),
        "f.png": (encode(Image.fromarray(sixteen_bit)), (200,) * 3),
        "g.png": (encode(Image.new("RGBA", (20, 20), (*red, 255))), red),
        "h.png": (encode(half_clear), BACKGROUND),
        "i.jpg": (encode(cmyk, "JPEG", quality=95), red),
        "j.png": (encode(Image.new("1", (20, 20), 1)), (255,) * 3),
        "k.png": (encode(palette_with_clear, transparency=0), BACKGROUND),
    }
    files = {name: content for name, (content, _) in expected.items()}
    ignored = {"notes.txt": b"no image", ".hidden.png": b"no image", ".cache/x.png": b"no image"}
    write_folder(tmp_path / "faces", files | ignored)
    dataset = landmark_folder(tmp_path / "faces", data_dir=tmp_path / "data")

    examples = read_all(dataset)
    assert set(examples) == {"unlabeled"}
    assert len(examples["unlabeled"]) == len(expected)
    for example in examples["unlabeled"]:  # without subjects, people are numbered by file
        name = sorted(expected)[example["subject"]]
        colour = np.array(expected[name][1])
        assert example["landmarks"].shape == (0, 2)
        assert example["image"].dtype == np.uint8
        assert np.abs(example["image"].astype(int) - colour).max() <= 4, name


def test_table_scales_landmarks_and_numbers_subjects(tmp_path):
    names = ["images/a.png", "images/b.png", "c.png", "d.png", "e.png"]
    write_folder(
        tmp_path / "faces",
        {name: encode(plain(size=(68, 34))) for name in names},
        """
        file,subject,split,x0,y0,x1,y1
        a.png,zoe,train,10,20,,
        images/b.png, adam ,test,1.5,2,3,4
        c.png,zoe,unlabeled,,,,
        d.png,bob,train,,,,
        """,
    )
    dataset = landmark_folder(tmp_path / "faces", data_dir=tmp_path / "data")
    examples = read_all(dataset)
    assert {name: len(found) for name, found in examples.items()} == {"train": 1, "test": 1, "unlabeled": 3}
    (train,), (test,) = examples["train"], examples["test"]
    # 68x34 doubles to 136x68, with 34 rows of padding above: the centre of pixel 0 goes to 0.5, between 0 and 1.
    np.testing.assert_allclose(train["landmarks"], [[20.5, 74.5], [np.nan, np.nan]])
    np.testing.assert_allclose(test["landmarks"], [[3.5, 38.5], [6.5, 42.5]])
    assert (test["subject"], train["subject"]) == (0, 2)  # adam, zoe
    assert sorted(e["subject"] for e in examples["unlabeled"]) == [1, 2, 3]  # bob, zoe, and e.png's own
    assert all(np.isnan(e["landmarks"]).all() for e in examples["unlabeled"])
    metadata = dataset.info.metadata
    assert (metadata["subjects"], metadata["num_landmarks"], metadata["num_images"]) == (
        ["adam", "bob", "zoe"],
        2,
        5,
    )
    assert metadata["fingerprint"] == dataset.builder_config.fingerprint


def test_unannotated_images_follow_their_people(tmp_path):
    names = [f"{number}.png" for number in range(11)]
    root = write_folder(
        tmp_path / "faces",
        {name: encode(plain()) for name in names},
        """
        file,subject,split,x0,y0
        0.png,ann,train,1,2
        1.png,bob,validation,1,2
        2.png,cat,test,1,2
        3.png,ann,unlabeled,,
        4.png,bob,unlabeled,,
        5.png,cat,unlabeled,,
        6.png,cat,train,,
        7.png,dan,,,
        9.png,eve,unlabeled,1,2
        10.png,cat,unlabeled,1,2
        """,
    )
    expected = {"train": [0], "validation": [1], "test": [2], "unlabeled": [3, 7, 8, 9], "unlabeled_validation": [4]}
    splits = assign_splits(read_folder(root).faces)  # 5, 6 and 10 are cat's, who is in test; 8 is a person of its own
    assert {
        name: sorted(int(face.file.removesuffix(".png")) for face in faces) for name, faces in splits.items()
    } == expected
    dataset = landmark_folder(root, data_dir=tmp_path / "data")
    assert {name: split.num_examples for name, split in dataset.info.splits.items()} == {
        name: len(found) for name, found in expected.items()
    }
    assert (dataset.info.metadata["num_images"], dataset.info.metadata["num_left_out"]) == (11, 3)


def test_without_a_split_column_the_people_drawn_for_test_are_left_out_too(tmp_path):
    rows = [
        f"{person}_{number}.png,{person}," + ("1,2" if number == 0 else ",") for person in "abcde" for number in (0, 1)
    ]
    files = {row.split(",")[0]: encode(plain()) for row in rows}
    root = write_folder(tmp_path / "faces", files, "\n".join(["file,subject,x0,y0", *rows]))
    splits = assign_splits(read_folder(root).faces)
    ((test,), (validation,)) = splits["test"], splits["validation"]  # 20 % of five people, 15 % of four
    assert [face.file for face in splits["unlabeled_validation"]] == [f"{validation.subject}_1.png"]
    others = set("abcde") - {test.subject, validation.subject}
    assert {face.file for face in splits["unlabeled"]} == {f"{person}_1.png" for person in others}


def test_a_copy_prepared_by_an_older_version_is_not_taken_for_the_new_one(tmp_path, monkeypatch):
    files = {f"{number}.png": encode(plain()) for number in range(3)}
    root = write_folder(tmp_path / "faces", files, "file,subject,split,x0,y0\n0.png,a,test,1,2\n1.png,a,unlabeled,,\n")
    with monkeypatch.context() as older:
        older.setattr(LandmarkFolder, "VERSION", "1.0.0")
        older.setattr(formats, "assign_splits", lambda faces: {"train": [], "test": [], "unlabeled": faces})
        assert landmark_folder(root, data_dir=tmp_path / "data").info.splits["unlabeled"].num_examples == 3
    found = landmark_folder(root, data_dir=tmp_path / "data").info.splits
    assert {name: split.num_examples for name, split in found.items()} == {"test": 1, "unlabeled": 1}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=80), st.randoms())
def test_drawn_splits_keep_people_apart(people, random):
    point = np.ones((1, 2))
    faces = [
        Face(
            f"{i}.jpg",
            f"{i}.jpg",
            point if labeled else point * np.nan,
            subject=f"p{person}" if person else None,
        )
        for i, (person, labeled) in enumerate(people)
    ]
    splits = assign_splits(faces)
    files = {name: {face.file for face in found} for name, found in splits.items()}
    number, names = number_subjects(faces)
    tested = {number(face) for face in splits["test"]}
    left_out = {face.file for face in faces if not face.is_labeled and number(face) in tested}
    kept = sorted(file for found in files.values() for file in found)
    assert kept == sorted({face.file for face in faces} - left_out)
    for name in ("unlabeled", "unlabeled_validation"):
        assert not any(face.is_labeled or number(face) in tested for face in splits[name])
    assert names == sorted(names)
    drawn = {name: {number(face) for face in splits[name]} for name in ("train", "validation", "test")}
    everyone = set.union(*drawn.values())
    assert sum(map(len, drawn.values())) == len(everyone)
    assert len(drawn["test"]) == round(0.2 * len(everyone))
    assert len(drawn["validation"]) == round(0.15 * (len(everyone) - len(drawn["test"])))

    random.shuffle(faces)
    shuffled = {name: {face.file for face in found} for name, found in assign_splits(faces).items()}
    assert shuffled == files


BAD_TABLES = {
    "missing image": ("file,x0,y0\nb.png,1,2", r"landmarks\.csv row 2: there is no image 'b\.png'"),
    "parent folder": ("file,x0,y0\na.png,1,2\n../a.png,1,2", r"row 3: file '\.\./a\.png' leaves the folder"),
    "absolute path": ("file,x0,y0\n/etc/a.png,1,2", r"row 2: file '/etc/a\.png' leaves the folder"),
    "too few cells": ("file,x0,y0\na.png,1", r"row 2: 2 cells where the header has 3 \(1 landmarks\)"),
    "too many cells": ("file,x0,y0\na.png,1,2,3", r"row 2: 4 cells where the header has 3"),
    "text": ("file,x0,y0\na.png,1,eye", r"'a\.png' \(landmarks\.csv row 2\): column y0 holds 'eye'"),
    "nan": ("file,x0,y0\na.png,nan,2", r"row 2\): column x0 holds 'nan'"),
    "infinite": ("file,x0,y0\na.png,1,-inf", r"row 2\): column y0 holds '-inf'"),
    "half a landmark": ("file,x0,y0,x1,y1\na.png,1,2,3,", r"row 2\): landmark 1 has only one of x and y"),
    "odd header": ("file,x0,y0,x1\na.png,1,2,3", r"row 1: 3 coordinate columns, an odd number"),
    "no coordinates": ("file,subject\na.png,s", r"row 1: no coordinate columns"),
    "no header": ("a.png,1,2", r"row 1: no column 'file'"),
    "semicolons": ("file;x0;y0\na.png;1;2", r"row 1: no column 'file' .*separated by commas"),
    "unknown column": ("file,x0,y0,x2,y2\na.png,1,2,3,4", r"row 1: unexpected column 'x2'"),
    "column twice": ("file,x0,y0,x0,y1\na.png,1,2,3,4", r"row 1: column 'x0' appears twice"),
    "row twice": ("file,x0,y0\na.png,1,2\n./a.png,3,4", r"row 3\): listed twice.*row 2"),
    "unknown split": ("file,split,x0,y0\na.png,dev,1,2", r"row 2\): unknown split 'dev'"),
    "no split": ("file,split,x0,y0\na.png,,1,2", r"row 2\): has landmarks but no split"),
    "unlabelled test": ("file,split,x0,y0\na.png,test,,", r"row 2\): a test image without landmarks"),
    "open quote": ('file,x0,y0\n"a.png,1,2', r"row 2: .*unexpected end"),
    "empty table": ("", r"landmarks\.csv is empty"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_name_file_and_row(case, tmp_path):
    text, message = BAD_TABLES[case]
    write_folder(tmp_path, {"a.png": encode(plain())})
    (tmp_path / "landmarks.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_folder(tmp_path)


def test_table_must_be_utf8_and_may_have_a_byte_order_mark(tmp_path):
    write_folder(tmp_path, {"a.png": encode(plain())})
    (tmp_path / "landmarks.csv").write_bytes("file,subject,x0,y0\na.png,Zoë,1,2\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"landmarks\.csv row 2: is not UTF-8"):
        read_folder(tmp_path)
    (tmp_path / "landmarks.csv").write_bytes("file,subject,x0,y0\r\na.png,Zoë,1,2\r\n".encode("utf-8-sig"))
    assert read_folder(tmp_path).faces[0].subject == "Zoë"


def test_bad_folders(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        read_folder(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatasetError, match="is not a folder"):
        read_folder(tmp_path / "file")
    with pytest.raises(DatasetError, match="holds no image"):
        read_folder(tmp_path)


@pytest.mark.parametrize("target", ["file", "folder"])
def test_links_that_leave_the_folder_are_refused(target, tmp_path):
    outside = write_folder(tmp_path / "outside", {"a.png": encode(plain())})
    root = write_folder(tmp_path / "faces", {"b.png": encode(plain())})
    if target == "file":
        (root / "link.png").symlink_to(outside / "a.png")
    else:
        (root / "link").symlink_to(outside)
    with pytest.raises(DatasetError, match=r"'link.*' is a link"):
        read_folder(root)


# --- preparation


def test_unreadable_images_are_skipped_and_counted(tmp_path, caplog):
    good = encode(noise(50), "JPEG")
    files = {f"{i}.jpg": good for i in range(5)} | {"cut.jpg": good[: len(good) // 2], "text.png": b"hello"}
    root = write_folder(tmp_path / "faces", files, "file,split,x0,y0\ncut.jpg,test,1,2\n0.jpg,train,3,4\n")
    dataset = landmark_folder(root, data_dir=tmp_path / "data")
    # The test split held nothing but the truncated image: TFDS has no empty splits.
    assert {n: s.num_examples for n, s in dataset.info.splits.items()} == {"train": 1, "unlabeled": 4}
    assert dataset.info.metadata["skipped"] == ["cut.jpg", "text.png"]
    assert "'cut.jpg' (landmarks.csv row 2): cannot be decoded" in caplog.text
    assert "'text.png': cannot be read as JPEG, PNG or WebP" in caplog.text


def test_people_in_train_and_test_are_warned_of(tmp_path, caplog):
    table = "file,subject,split,x0,y0\na.png,s,train,1,2\nb.png,{},test,1,2\n"
    files = {"a.png": encode(plain()), "b.png": encode(plain())}
    landmark_folder(write_folder(tmp_path / "1", files, table.format("t")), data_dir=tmp_path / "data")
    assert "in train and in test" not in caplog.text
    landmark_folder(write_folder(tmp_path / "2", files, table.format("s")), data_dir=tmp_path / "data")
    assert "1 people are in train and in test" in caplog.text


@pytest.mark.parametrize(("good", "bad"), [(0, 1), (30, 4)])
def test_too_many_unreadable_images_are_an_error(good, bad, tmp_path):
    files = {f"{i}.png": encode(plain()) for i in range(good)} | {f"bad{i}.png": b"hello" for i in range(bad)}
    root = write_folder(tmp_path / "faces", files)
    with pytest.raises(DatasetError, match=rf"{bad} of {good + bad} images cannot be read.*'bad0\.png'"):
        landmark_folder(root, data_dir=tmp_path / "data")
    assert not any((tmp_path / "data").rglob("dataset_info.json"))


def test_unchanged_folder_is_reused_and_changed_one_prepared_anew(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "My Faces", {"a.png": encode(plain()), "b.png": encode(plain())})
    first = landmark_folder(root, data_dir=tmp_path / "data")
    assert first.builder_config.name.startswith("my_faces-")
    with monkeypatch.context() as patch:
        patch.setattr(builder, "prepare_face", None)  # must not be needed
        again = landmark_folder(root, data_dir=tmp_path / "data")
    assert again.data_dir == first.data_dir
    assert again.info.metadata["num_images"] == 2

    (root / "landmarks.csv").write_text("file,x0,y0\na.png,1,2\n")
    annotated = landmark_folder(root, data_dir=tmp_path / "data")
    assert annotated.info.splits["train"].num_examples == 1
    (root / "c.png").write_bytes(encode(plain()))
    assert landmark_folder(root, data_dir=tmp_path / "data").info.splits["unlabeled"].num_examples == 2

    stale = LandmarkFolder(config=folder_config(root), data_dir=tmp_path / "data2")
    (root / "d.png").write_bytes(encode(plain()))
    with pytest.raises(DatasetError, match="changed while it was read"):
        stale.download_and_prepare()


def run_alone(code):
    """Runs code in a fresh Python where the parent packages are empty and any connection fails."""
    preamble = f"""
        import socket, sys, types
        for name in ("scemae_jax", "scemae_jax.data"):
            sys.modules[name] = types.ModuleType(name)
            folder = {str(Path(__file__).parents[2])!r} + "/" + name.replace(".", "/")
            sys.modules[name].__path__, sys.modules[name].__file__ = [folder], folder + "/__init__.py"
        def refuse(*args): raise AssertionError("tried the network")
        socket.socket.connect = socket.getaddrinfo = refuse
        from scemae_jax.data.datasets import landmark_folder as builder
        from scemae_jax.data.datasets.landmark_folder import LandmarkFolder, folder_config
    """
    code = textwrap.dedent(preamble) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_killed_preparation_leaves_no_dataset_and_none_needs_tensorflow_or_jax(tmp_path):
    root = write_folder(tmp_path / "faces", {f"{i}.png": encode(plain()) for i in range(40)})
    killed = run_alone(f"""
        import itertools, os, signal
        count, real = itertools.count(), builder.prepare_face
        def prepare_face(*args, **kwargs):
            if next(count) == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        builder.prepare_face = prepare_face
        dataset = LandmarkFolder(config=folder_config({str(root)!r}), data_dir={str(tmp_path / "data")!r})
        dataset.download_and_prepare()
    """)
    assert killed.returncode == -9, killed.stderr
    finished = run_alone(f"""
        dataset = LandmarkFolder(config=folder_config({str(root)!r}), data_dir={str(tmp_path / "data")!r})
        dataset.download_and_prepare()
        source = dataset.as_data_source("unlabeled")
        assert sorted(example["subject"] for example in source) == list(range(40))
        assert not {{"tensorflow", "jax"}} & set(sys.modules), "TensorFlow or JAX was imported"
    """)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.skipif(not YTF68.is_dir(), reason="ytf68 is not beside the project")
def test_ytf68_as_its_readme_counts_it():
    folder = read_folder(YTF68)
    splits = assign_splits(folder.faces)
    assert folder.num_landmarks == 68
    assert len(splits["train"]) + len(splits["validation"]) == 2740
    assert (len(splits["test"]), len(splits["unlabeled"]) + len(splits["unlabeled_validation"])) == (742, 1001)
    people = {name: {face.subject for face in faces} for name, faces in splits.items()}
    assert len(people["validation"]) == round(0.15 * 227)
    assert people["train"] | people["validation"] == people["unlabeled"] | people["unlabeled_validation"]
    assert people["unlabeled_validation"] <= people["validation"]
    assert not people["train"] & people["validation"]
    for face in folder.faces[::1000]:
        content = (folder.root / face.file).read_bytes()
        jpeg, landmarks = prepare_face(io.BytesIO(content), face.landmarks, name=face.name)
        assert jpeg == content
        np.testing.assert_allclose(landmarks, face.landmarks, rtol=1e-6)
