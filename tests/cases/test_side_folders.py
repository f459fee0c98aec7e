"""What a NAS, an archive, a system or a labelling tool leaves beside images is no image, and costs no run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from broken_images import encoded, picture

from distillery.data.external import check_external, read_external
from distillery.data.settings import Dataset, Folder, Holdout
from distillery.data.sources import class_names, class_sizes, content_digest, passed_over
from distillery.job import Job
from distillery.settings import canonical
from distillery.stages import import_images, ingest
from distillery.storage.images import ImageSet, read_images, write_images
from distillery.storage.tables import read_table


def classes(root: Path, per_class: int = 4, seed: int = 0) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for row in range(per_class):
            (root / name / f"{row}.png").write_bytes(encoded(picture(32, seed=100 * seed + 10 * number + row)))
    return root


def put(path: Path, content: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def leave_side_files(root: Path) -> None:
    """Thumbnails and waste that are images, so that whoever read them would have images more."""
    image = encoded(picture(32, seed=999))
    for folder in ("@eaDir", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", ".Trash-1000", "#recycle"):
        put(root / folder / "cat" / "x.png", image)
        put(root / "cat" / folder / "0.png" / "SYNOPHOTO_THUMB_M.png", image)
        put(root / "dog" / "deeper" / folder / "x.png", image)
    (root / "lost+found").mkdir()
    for name in ("Thumbs.db", "desktop.ini", "._0.png", ".DS_Store"):
        put(root / "cat" / name, image)


def run(out: Path, source: Folder, **options: Any) -> set[str]:
    """The ids of all images that the stage takes."""
    settings = ingest.Settings(dataset=Dataset(source=source, resolution=32, **options))
    files = {name: out / f"{name}.parquet" for name in ("train", "test", "rejected", "duplicates")}
    ingest.run(settings, **files, job=Job("ingest", canonical(settings), torch.device("cpu"), 1))
    return {name for table in ("train", "test") for name in read_images(files[table], "ingest").paths}


def test_side_folders_are_passed_over_at_every_level_in_both_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = classes(tmp_path / "train"), classes(tmp_path / "test", 2, seed=1)
    source = Folder(kind="folder", train=str(train), test=str(test))
    before, digest = run(tmp_path / "clean", source), content_digest(source)
    assert "passed over" not in capsys.readouterr().err
    for root in (train, test):
        leave_side_files(root)
    assert class_names(source) == ["cat", "dog"] and class_sizes(source) == {"cat": 4, "dog": 4}
    assert run(tmp_path / "out", source) == before
    assert content_digest(source) == digest
    assert read_table(tmp_path / "out" / "rejected.parquet", "ingest").num_rows == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if "passed over" in line]
    assert "46 side files and folders" in line and "@eaDir: 6" in line and "hidden: 10" in line
    assert "Thumbs.db: 2" in line and "lost+found: 2" in line


def test_files_that_are_no_images_by_name_are_counted_apart_and_stop_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = classes(tmp_path / "train")
    for name in ("cat", "dog"):
        for row in range(4):  # as many as images: a share of a half would stop the run
            put(root / name / f"{row}.TXT", b"0 0.5 0.5 1 1")
            put(root / name / f"{row}.json", b"{}")
    put(root / "README.md")
    put(root / "cat" / "broken.png", b"no image")
    source = Folder(kind="folder", train=str(root))
    assert class_sizes(source) == {"cat": 5, "dog": 4}
    assert len(run(tmp_path / "out", source, holdout=Holdout(fraction=0.5), max_rejected=0.2)) == 8
    assert read_table(tmp_path / "out" / "rejected.parquet", "ingest")["path"].to_pylist() == [
        str(root / "cat" / "broken.png")
    ]
    said = capsys.readouterr().err
    assert "17 files that are no images by name (.json: 8, .txt: 8, outside class folders: 1)" in said
    assert "1 rejected" in said


def test_an_external_set_may_lie_on_a_nas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, dataset = classes(tmp_path / "set"), Dataset(source=Folder(kind="folder", train="-"), resolution=32)
    before = read_external("methods.theirs", str(root), ["cat", "dog"], 4, dataset)
    leave_side_files(root)
    put(root / "cat" / "labels.csv")
    assert list(check_external("methods.theirs", str(root), [4], [0], ["cat", "dog"])) == []
    assert read_external("methods.theirs", str(root), ["cat", "dog"], 4, dataset) == before
    real = ImageSet([before[0][2], before[1][2]], torch.tensor([0, 1]).numpy(), ["cat", "dog"], ["a", "b"])
    write_images(tmp_path / "train.parquet", real, {"stage": "test"})
    settings = import_images.Settings(name="theirs", images=str(root), ipc=4, dataset=dataset)
    job = Job("import_images", canonical(settings), torch.device("cpu"), 1)
    other = ImageSet([encoded(picture(32, seed=77))], real.labels[:1], ["cat", "dog"], ["c"])
    write_images(tmp_path / "test.parquet", other, {"stage": "test"})
    files = {name: tmp_path / f"{name}.parquet" for name in ("test", "images")}
    import_images.run(settings, data=tmp_path / "train.parquet", **files, job=job)
    assert "import_images: passed over: 23 side files and folders" in capsys.readouterr().err


def test_a_link_in_place_of_a_class_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    root = classes(tmp_path / "set")
    (root / "owl").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"dataset.source.train: .*set/owl: a link that leads nowhere, or to itself"):
        class_names(Folder(kind="folder", train=str(root)))
    (root / "owl").unlink()
    (root / "owl").symlink_to("owl")
    with pytest.raises(ValueError, match=r"dataset.source.train: .*set/owl: a link that leads nowhere, or to itself"):
        class_names(Folder(kind="folder", train=str(root)))


def test_links_that_lead_round_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    root = classes(tmp_path / "set")
    (root / "cat" / "to dog").symlink_to("../dog")
    (root / "dog" / "to cat").symlink_to("../cat")
    (root / "dog" / "up").symlink_to("..")
    source = Folder(kind="folder", train=str(root))
    assert class_sizes(source) == {"cat": 8, "dog": 8}
    assert "links to a folder above: 4" in passed_over(source)
