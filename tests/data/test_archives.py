"""Archives of official files: fetched once and only if asked for, checked, unpacked all or not at all."""

import functools
import hashlib
import http.server
import io
import shutil
import tarfile
import threading

import pytest

from scemae_jax.data import sources
from scemae_jax.data.datasets.archives import HOST, OfficialFiles
from scemae_jax.data.images import DatasetError


def files_of(sha1, host=HOST):
    return OfficialFiles(
        title="Faces", archive="faces.tar.gz", size="1 KiB", sha1=sha1, folders=("data/faces", "faces"),
        marker="lists/train.txt", layout="  faces/lists/train.txt", host=host,
    )  # fmt: skip


def pack(folder, arcname="data/faces", marker="train.txt"):
    """An archive with a tree below `arcname`; gives its SHA-1."""
    (folder / "tree/lists").mkdir(parents=True)
    (folder / "tree/lists" / marker).write_text("1.jpg\n" * 5000)
    with tarfile.open(folder / "faces.tar.gz", "w:gz", compresslevel=0) as members:
        members.add(folder / "tree", arcname)
    shutil.rmtree(folder / "tree")
    return hashlib.sha1((folder / "faces.tar.gz").read_bytes()).hexdigest()


@pytest.mark.parametrize("arcname", ["data/faces", "faces", "."])
def test_an_archive_is_checked_and_unpacked(tmp_path, arcname):
    sha1 = pack(tmp_path, arcname)
    with pytest.raises(DatasetError, match=rf"has SHA-1 {sha1}, expected 0000; download it again"):
        files_of("0000").find(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["faces.tar.gz"]
    (tmp_path / "faces.unpacking/half").mkdir(parents=True)  # left by an interrupted run
    tree = files_of(sha1).find(tmp_path)
    assert tree == tmp_path / "faces"
    assert (tree / "lists/train.txt").read_text().startswith("1.jpg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "faces.tar.gz"]
    (tmp_path / "faces.tar.gz").unlink()
    assert files_of(sha1).find(tmp_path) == tree


def test_a_sum_that_nobody_knows_is_said(tmp_path, caplog):
    sha1 = pack(tmp_path)
    files_of(None).find(tmp_path)
    assert f"faces.tar.gz has SHA-1 {sha1}, which nobody published" in caplog.text


def test_archives_that_cannot_be_used(tmp_path):
    pack(tmp_path, marker="test.txt")
    with pytest.raises(DatasetError, match=r"faces\.tar\.gz' does not hold lists/train\.txt"):
        files_of(None).find(tmp_path)
    shutil.rmtree(tmp_path / "faces.unpacking")
    pack(tmp_path)
    archive = tmp_path / "faces.tar.gz"
    archive.write_bytes(archive.read_bytes()[:15_000])
    with pytest.raises(DatasetError, match=r"faces\.tar\.gz' cannot be unpacked"):
        files_of(None).find(tmp_path)
    with tarfile.open(archive, "w:gz") as members:
        member = tarfile.TarInfo("../../escaped")
        member.size = 5
        members.addfile(member, io.BytesIO(b"hello"))
    with pytest.raises(DatasetError, match=r"cannot be unpacked .*escaped"):
        files_of(None).find(tmp_path)
    assert not (tmp_path.parent / "escaped").exists()


def test_a_half_tree_is_not_overwritten(tmp_path):
    sha1 = pack(tmp_path)
    (tmp_path / "faces/lists").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"faces' has no lists/train\.txt; complete or remove it"):
        files_of(sha1).find(tmp_path)


def test_without_files_it_is_said_where_to_get_them(tmp_path):
    for name, builder in sources.OFFICIAL.items():
        with pytest.raises(DatasetError) as missing:
            builder.FILES.find(tmp_path)
        for part in (str(tmp_path), builder.FILES.url, builder.FILES.marker):
            assert part in str(missing.value), name


@pytest.fixture
def served(tmp_path):
    """An archive on a web server: the archive, its files as `OfficialFiles`, and the paths that were asked for."""
    folder = tmp_path / "served"
    folder.mkdir()
    sha1, asked = pack(folder), []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder / "faces.tar.gz", files_of(sha1, f"http://127.0.0.1:{server.server_port}"), asked
        server.shutdown()


def test_an_archive_is_fetched_once(served, tmp_path):
    _, files, asked = served
    manual = tmp_path / "new" / "manual"
    with pytest.raises(DatasetError):
        files.find(manual)
    assert not asked
    files.download(manual)
    files.download(manual)
    assert files.find(manual) == manual / "faces"
    (manual / "faces.tar.gz").unlink()
    files.download(manual)  # the tree is there
    assert asked == ["/faces.tar.gz"]
    assert [path.name for path in manual.iterdir()] == ["faces"]


def test_downloads_that_cannot_be_used_leave_nothing(served, tmp_path, monkeypatch):
    archive, files, _ = served
    content, manual = archive.read_bytes(), tmp_path / "manual"
    archive.write_bytes(b"hello")
    with pytest.raises(DatasetError, match=f"cannot be downloaded.*{hashlib.sha1(b'hello').hexdigest()}"):
        files.download(manual)
    archive.write_bytes(content)
    with monkeypatch.context() as cut:
        copy = lambda self, source, target: target.write(source.read(1000))  # noqa: E731
        cut.setattr(http.server.SimpleHTTPRequestHandler, "copyfile", copy)
        with pytest.raises(DatasetError, match=r"cannot be downloaded.*1000 bytes read"):
            files_of(None, files.host).download(manual)
    archive.unlink()
    with pytest.raises(DatasetError, match=r"/faces\.tar\.gz cannot be downloaded to .*404"):
        files.download(manual)
    assert not list(manual.iterdir())


def test_the_addresses_and_sums_of_prior_work():
    host = "https://www.robots.ox.ac.uk/~vgg/research/DVE/data/datasets/"
    celeba = (host + "celeba.tar.gz", "f6872ab0f2df8e5843abe99dc6d6100dd4fea29f")
    known = {
        "celeba_landmarks": celeba,
        "mafl": celeba,
        "aflw_m": (host + "aflw-mtfl.tar.gz", None),
        "aflw_r": (host + "aflw-recrop.tar.gz", "939fdce0e6262a14159832c71d4f84a9d516de5e"),
        "three_hundred_w": (host + "300w.tar.gz", "885b09159c61fa29998437747d589c65cfc4ccd3"),
    }
    assert {name: (b.FILES.url, b.FILES.sha1) for name, b in sources.OFFICIAL.items()} == known
