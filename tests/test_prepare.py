"""Preparing from the command line: what is checked, what is downloaded, and how errors are told."""

import dataclasses
import shutil

import miniature_trees
import numpy as np
import pytest
from absl import flags
from PIL import Image

from scemae_jax import prepare
from scemae_jax.data import sources
from scemae_jax.data.images import DatasetError

MAKERS = {
    "celeba_landmarks": miniature_trees.celeba,
    "mafl": miniature_trees.celeba,
    "aflw_m": miniature_trees.aflw_m,
    "aflw_r": miniature_trees.aflw_r,
    "three_hundred_w": miniature_trees.three_hundred_w,
}


@pytest.fixture(scope="module")
def manual(tmp_path_factory):
    """A manual directory with all five trees."""
    root = tmp_path_factory.mktemp("manual")
    for maker in dict.fromkeys(MAKERS.values()):
        maker(root)
    return root


@pytest.fixture
def run():
    """`run(name=value, ...)` with these flags, as the command line does; gives the exit status."""
    saved = {name: flags.FLAGS[name].default for name in ("dataset", "manual_dir", "data_dir", "variant")}
    saved |= {"download": False, "check": False}

    def with_flags(**values):
        if not flags.FLAGS.is_parsed():
            flags.FLAGS(["prepare"], known_only=True)
        for name, value in (saved | values).items():
            setattr(flags.FLAGS, name, value if isinstance(value, bool | None) else str(value))
        try:
            prepare.main()
        except SystemExit as stop:
            return stop.code
        return 0

    yield with_flags
    for name, value in saved.items():
        setattr(flags.FLAGS, name, value)


def errors(captured):
    return [line for line in captured.err.splitlines() if line.startswith("error: ")]


def examples(count, *, start=0, landmarks=5):
    """Sound examples; each image differs from the others."""
    return [
        {"image": np.full((136, 136, 3), start + i, np.uint8), "landmarks": np.full((landmarks, 2), 60.0, np.float32)}
        for i in range(count)
    ]


# --- what is verified


def test_sound_splits_have_no_problems():
    splits = {"train": examples(7), "test": examples(3, start=100)}
    assert prepare.verify(splits, landmarks=5, missing_allowed=False) == ({"train": 7, "test": 3}, [], [])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"image": np.zeros((136, 135, 3), np.uint8)}, "is uint8[136, 135, 3], expected uint8[136, 136, 3]"),
        ({"image": np.zeros((136, 136, 3), np.float32)}, "is float32[136, 136, 3], expected uint8[136, 136, 3]"),
        ({"landmarks": np.zeros((4, 2))}, "has landmarks [4, 2], expected [5, 2]"),
        ({"landmarks": np.full((5, 2), np.nan)}, "has landmarks that are not finite"),
        ({"landmarks": np.full((5, 2), -np.inf)}, "has landmarks that are not finite"),
    ],
)
def test_every_kind_of_problem_is_found(change, problem):
    splits = {"train": examples(7), "test": examples(3, start=100)}
    splits["test"][1] |= change
    found = prepare.verify(splits, landmarks=5, missing_allowed=False)
    assert found.problems == [f"test image 1 {problem}"]
    assert found.images == {"train": 7, "test": 2}


def test_missing_landmarks_are_allowed_in_folders_but_not_infinite_ones():
    splits = {"train": examples(2)}
    splits["train"][0]["landmarks"][3] = np.nan
    assert prepare.verify(splits, landmarks=5, missing_allowed=True).problems == []
    splits["train"][1]["landmarks"][3, 1] = np.inf
    assert len(prepare.verify(splits, landmarks=5, missing_allowed=True).problems) == 1


def test_an_image_in_two_splits_is_found_and_one_twice_in_a_split_is_not():
    splits = {"train": examples(4), "validation": examples(2, start=50), "test": examples(3, start=100)}
    splits["train"].append(splits["train"][0])
    splits["test"][2] = splits["validation"][1]
    found = prepare.verify(splits, landmarks=5, missing_allowed=False)
    assert (found.problems, found.shared) == ([], ["test image 2 is also validation image 1"])


def test_an_example_that_cannot_be_decoded_is_found():
    class Broken(list):
        def __getitem__(self, index):
            if index == 2:
                raise OSError("broken data stream")
            return super().__getitem__(index)

    found = prepare.verify({"train": Broken(examples(4))}, landmarks=5, missing_allowed=False)
    assert found == ({"train": 3}, ["train image 2 cannot be decoded (broken data stream)"], [])


# --- the command line


@pytest.mark.parametrize("name", MAKERS)
def test_official_datasets_are_prepared_and_verified(name, manual, run, tmp_path, capsys):
    assert run(dataset=name, check=True, data_dir=tmp_path) == 1
    version = sources.OFFICIAL[name].VERSION
    assert f"error: {name}/{version} is not prepared in {tmp_path}" in capsys.readouterr().err
    assert run(dataset=name, manual_dir=manual, data_dir=tmp_path) == 0
    assert run(dataset=name, check=True, data_dir=tmp_path) == 0  # no folder is needed now
    captured = capsys.readouterr()
    assert not errors(captured)
    table = {line.split("│")[1].strip(): line.split("│")[2:] for line in captured.out.splitlines() if "│" in line}
    dataset = sources.dataset_builder(name, data_dir=tmp_path)
    for split, info in dataset.info.splits.items():
        count, sound, *_ = (cell.strip() for cell in table[split])
        assert count == sound == str(info.num_examples)


def test_a_split_cut_short_fails_the_check(manual, run, tmp_path, capsys, monkeypatch):
    """Nothing is known of the images that are gone, but their number is."""
    assert run(dataset="mafl", manual_dir=manual, data_dir=tmp_path) == 0
    monkeypatch.setattr(sources.Mafl, "OFFICIAL_COUNTS", {"train": 13, "test": 6})
    capsys.readouterr()
    assert run(dataset="mafl", check=True, data_dir=tmp_path) == 1
    (line,) = errors(capsys.readouterr())
    assert "mafl: found {'train': 12, 'test': 6} images, officially {'train': 13, 'test': 6}" in line
    monkeypatch.setattr(sources.Mafl, "OFFICIAL_COUNTS", {"train": 12, "test": 6})
    assert run(dataset="mafl", check=True, data_dir=tmp_path) == 0


def test_a_damaged_file_fails_the_check(manual, run, tmp_path, capsys):
    assert run(dataset="aflw_r", manual_dir=manual, data_dir=tmp_path) == 0
    (shard,) = (tmp_path / "aflw_r").rglob("*-test.array_record*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    capsys.readouterr()
    assert run(dataset="aflw_r", check=True, data_dir=tmp_path) == 1
    lines = errors(capsys.readouterr())
    assert lines
    assert all(line.startswith("error: test image ") and "cannot be decoded" in line for line in lines[:5])
    shard.unlink()
    assert run(dataset="aflw_r", check=True, data_dir=tmp_path) == 1
    assert errors(capsys.readouterr())[-1] == "error: and 3 more"  # of the 8


def test_an_image_in_two_official_lists_is_a_warning_with_its_place(manual, run, tmp_path, capsys):
    """The same picture under two names: only its content tells."""
    tree = shutil.copytree(manual, tmp_path / "manual") / "celeba/Img/img_align_celeba"
    shutil.copy(tree / "000002.jpg", tree / "000040.jpg")  # of MAFL's training and testing lists
    assert run(dataset="mafl", manual_dir=tmp_path / "manual", data_dir=tmp_path) == 0
    captured = capsys.readouterr()
    assert not errors(captured)
    count, line = (line for line in captured.err.splitlines() if line.startswith("warning: "))
    assert count == "warning: mafl: images in two splits: 1"
    assert "image 5 is also" in line or "image 0 is also" in line


def test_an_image_in_two_splits_of_a_folder_is_an_error(run, tmp_path, capsys):
    folder = tmp_path / "faces"
    folder.mkdir()
    for i, grey in enumerate((10, 90, 170, 90)):
        Image.new("RGB", (50, 60), (grey, grey, grey)).save(folder / f"{i}.png")
    table = ["file,split,x0,y0", "0.png,train,1,2", "1.png,train,3,4", "2.png,test,5,6", "3.png,test,7,8"]
    (folder / "landmarks.csv").write_text("\n".join(table) + "\n")
    assert run(dataset="landmark_folder", manual_dir=folder, data_dir=tmp_path) == 1
    captured = capsys.readouterr()
    (line,) = errors(captured)
    assert "image 1 is also" in line
    assert "warning: " not in captured.err


def test_synthetic_faces_and_folders_work_too(run, tmp_path, capsys, monkeypatch):
    for split, count in (("train", 3), ("validation", 1), ("test", 2)):
        monkeypatch.setitem(sources.SyntheticFaces.builder_configs["tiny"].images, split, count)
    assert run(dataset="synthetic_faces", variant="tiny", data_dir=tmp_path) == 0
    folder = tmp_path / "faces"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (50, 60), (10 * i, 90, 30)).save(folder / f"{i}.png")
    (folder / "landmarks.csv").write_text("file,x0,y0,x1,y1\n0.png,1,2,3,4\n1.png,5,6,,\n")
    assert run(dataset="landmark_folder", manual_dir=folder, data_dir=tmp_path) == 0
    assert run(dataset="landmark_folder", manual_dir=folder, data_dir=tmp_path, check=True) == 0
    assert not errors(capsys.readouterr())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "mafl"}, "mafl is prepared from files: name their folder with --manual_dir"),
        ({"dataset": "landmark_folder", "check": True}, "landmark_folder is prepared from files: name their folder"),
        ({"dataset": "landmark_folder", "manual_dir": "/not/there"}, "'/not/there' does not exist"),
        ({"dataset": "mafl", "manual_dir": "/not/there"}, "/not/there"),
        ({"dataset": "synthetic_faces", "variant": "huge"}, "no variant 'huge': choose one of default, tiny"),
        ({"dataset": "synthetic_faces", "download": True}, "nothing to download for synthetic_faces"),
        ({"dataset": "mafl", "manual_dir": "x", "download": True, "check": True}, "leave out --download"),
    ],
)
def test_what_cannot_be_done_is_said(values, message, run, tmp_path, capsys):
    assert run(**values, data_dir=tmp_path) == 1
    (line,) = errors(captured := capsys.readouterr())
    assert message in line
    assert "Traceback" not in captured.err


def test_nothing_is_fetched_unasked(run, tmp_path, capsys, monkeypatch):
    files = dataclasses.replace(sources.AflwM.FILES, host="http://127.0.0.1:9")  # where nobody answers
    monkeypatch.setattr(sources.AflwM, "FILES", files)
    (tmp_path / "manual/other").mkdir(parents=True)
    asked = {"dataset": "aflw_m", "manual_dir": tmp_path / "manual", "data_dir": tmp_path}
    for download, message in ((False, "no AFLW as MTFL crops it in"), (True, "cannot be downloaded to")):
        assert run(**asked, download=download) == 1
        assert message in errors(capsys.readouterr())[0]


def test_training_needs_the_folder_only_until_the_dataset_is_prepared(manual, tmp_path):
    with pytest.raises(
        DatasetError, match="aflw_m is prepared from its official files: name their folder with --config"
    ):
        miniature_trees.prepare("aflw_m", "", tmp_path)
    first = miniature_trees.prepare("aflw_m", manual, tmp_path)
    again = miniature_trees.prepare("aflw_m", "", tmp_path)
    assert {split: len(found) for split, found in again.items()} == {"train": 14, "validation": 2, "test": 8}
    np.testing.assert_array_equal(again["test"][3]["image"], first["test"][3]["image"])
