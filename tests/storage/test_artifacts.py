"""Files are whole or not there, say how they were made, and say nothing of when and where."""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from clone import PROJECT
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import distillery.data.pixels
import distillery.storage.images
import distillery.storage.spool
from distillery.data.reading import ImageTable
from distillery.devices import described
from distillery.errors import BadInput, DamagedArtifact, NotSafetensors
from distillery.job import Job
from distillery.processes import LONGEST_NAME
from distillery.provenance import package_versions
from distillery.storage.atomic import discard, read_json, replacing, write_bytes, write_json
from distillery.storage.images import (
    ROW_GROUP,
    ImageSet,
    concatenate,
    encode_png,
    image_table,
    read_classes,
    read_images,
    write_images,
)
from distillery.storage.tables import metadata_of, read_table, write_table, writing_table
from distillery.storage.tensors import growing_tensors, read_header, read_tensors, write_stacks, write_tensors

MADE_BY = {"stage": "test", "settings": "{}"}
CLASSES = ["tench", "english springer", "église"]


def pictures(count: int = 6, channels: int = 3, side: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def an_image_set(count: int = 6, channels: int = 3, **columns: np.ndarray) -> ImageSet:
    pixels = pictures(count, channels)
    return ImageSet(
        [encode_png(one) for one in pixels],
        np.arange(count, dtype=np.int64) % len(CLASSES),
        CLASSES,
        [f"place/{row}.png" for row in range(count)],
        columns,
    )


# ---- whole or not there ----------------------------------------------------------------------------------------------


def test_an_error_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def broken() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_on_the_way_leaves_no_file_where_there_was_none(tmp_path: Path) -> None:
    def broken() -> None:
        with replacing(tmp_path / "new" / "file") as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert list((tmp_path / "new").iterdir()) == []


def test_the_temporary_file_lies_beside_its_target_and_is_hidden(tmp_path: Path) -> None:
    with replacing(tmp_path / "a" / "file.parquet") as temporary:
        temporary.write_bytes(b"")
        assert temporary.parent == tmp_path / "a"
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".tmp"  # no pattern for artifacts finds it


def test_two_writers_never_share_a_temporary_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as one, replacing(path) as other:
        assert one != other
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert path.read_bytes() == b"one"  # the outer one came last
    assert list(tmp_path.iterdir()) == [path]


def test_many_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([65 + number]) * 200_000 for number in range(8)]
    seen: list[bytes] = []

    def write(content: bytes) -> None:
        for _ in range(10):
            write_bytes(path, content)
            seen.append(path.read_bytes())

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) <= set(contents)
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import sys, time
from pathlib import Path
import pyarrow as pa
import distillery.storage.tables as artifacts

path = Path(sys.argv[1])
def slow(self, table):
    with open(self.where, "r+b") as file:
        file.write(bytes(100))
    print("half", flush=True)
    time.sleep(60)
artifacts.pq.ParquetWriter.write_table = slow
artifacts.write_table(path, pa.table({"a": list(range(1000))}), {})
"""


@pytest.mark.parametrize("old", [True, False])
def test_kill_9_in_the_middle_of_a_write_leaves_the_old_file_or_none(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "table.parquet"
    if old:
        write_table(path, pa.table({"a": [1]}), MADE_BY)
    before = path.read_bytes() if old else b""
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists() == old
    assert not old or path.read_bytes() == before
    [left] = tmp_path.glob(".*.tmp")
    write_table(tmp_path / "other.parquet", pa.table({"a": [1]}), MADE_BY)
    assert left.exists()  # of another file
    write_table(path, pa.table({"a": [2]}), MADE_BY)
    assert read_table(path, "test")["a"].to_pylist() == [2]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "other.parquet", path]


def test_a_writer_leaves_what_a_living_one_still_writes(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "half\n"
        [theirs] = tmp_path.glob(".*.tmp")
        write_table(path, pa.table({"a": [1]}), MADE_BY)
        assert set(tmp_path.iterdir()) == {path, theirs}
    finally:
        process.kill()
        process.communicate()
    discard(path)
    assert list(tmp_path.iterdir()) == []


LEAVES = """
import os, sys
from pathlib import Path
from distillery.processes import temporary_name
temporary_name(Path(sys.argv[1])).touch()
os._exit(9)
"""


def left_by_the_dead(path: Path) -> Path:
    """What a process that has ended left of `path`."""
    subprocess.run([sys.executable, "-c", LEAVES, str(path)], check=False)
    [left] = path.parent.glob(".*.tmp")
    return left


def test_what_a_writer_on_another_machine_left_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    left = left_by_the_dead(path)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("socket.gethostname", lambda: "elsewhere")
        write_bytes(path, b"new")
    assert set(tmp_path.iterdir()) == {path, left}  # whether it lives cannot be told from there
    write_bytes(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


def test_what_begins_with_the_name_of_a_file_is_not_of_that_file(tmp_path: Path) -> None:
    left = left_by_the_dead(tmp_path / "file.parquet")
    others = [tmp_path / ".file.tmp", tmp_path / ".file.0123456789abcdef0123456789abcdef.tmp"]
    for other in others:
        other.touch()
    write_bytes(tmp_path / "file", b"")
    assert set(tmp_path.iterdir()) == {left, *others, tmp_path / "file"}


@pytest.mark.parametrize("letter", ["a", "é"])
def test_the_longest_name_of_a_file_can_be_written_and_cleaned_up_after(tmp_path: Path, letter: str) -> None:
    path = tmp_path / (letter * (LONGEST_NAME // len(letter.encode())))
    left = left_by_the_dead(path)
    assert left.exists()
    write_bytes(path, b"content")
    assert list(tmp_path.iterdir()) == [path]


def _small_disk() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails as it does on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


FULL = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa, torch
from distillery.storage.atomic import write_bytes
from distillery.storage.tables import write_table
from distillery.storage.tensors import write_tensors
folder = Path(sys.argv[1])
noise = np.random.default_rng(0).random(100_000)
for write, content in (
    (write_table, [pa.table({"a": noise}), {}]),
    (write_tensors, [{"a": torch.from_numpy(noise)}, {}]),
    (write_bytes, [noise.tobytes()]),
):
    try:
        write(folder / write.__name__, *content)
    except OSError as error:
        print(write.__name__, error)
"""


def test_a_full_disk_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    names = ["write_table", "write_tensors", "write_bytes"]
    for name in names:
        (tmp_path / name).write_bytes(b"old")
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, preexec_fn=_small_disk, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == names
    assert all("File too large" in line for line in lines)  # not what cleaning up stumbles over
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert all((tmp_path / name).read_bytes() == b"old" for name in names)


# ---- what a file says of itself --------------------------------------------------------------------------------------


def a_job(settings: str = '{"seed":0}') -> Job:
    return Job("collect", settings, torch.device("cpu"), 1)


def test_a_table_says_how_it_was_made(tmp_path: Path) -> None:
    write_images(tmp_path / "images.parquet", an_image_set(), a_job().provenance)
    about = json.loads(pq.read_schema(tmp_path / "images.parquet").metadata[b"distillery"])
    assert about.keys() == {"stage", "settings", "code", "packages", "device", "threads"}
    assert about["stage"] == "collect"
    assert json.loads(about["settings"]) == {"seed": 0}
    assert json.loads(about["packages"]) == package_versions()
    assert (about["device"], about["threads"]) == (described(torch.device("cpu")), "1")


def test_tensors_say_how_they_were_made(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)}, a_job().provenance, classes=CLASSES)
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        about = file.metadata()
    assert about["format"] == "pt"  # what transformers and diffusers ask for
    assert json.loads(about["distillery"])["stage"] == "collect"


@pytest.mark.parametrize("write", [write_images, write_tensors], ids=["images", "tensors"])
def test_a_file_says_nothing_of_when_and_where(
    tmp_path: Path, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = an_image_set() if write is write_images else {"a": torch.arange(5.0)}
    paths = [tmp_path / "here" / "one", tmp_path / "there" / "other"]
    for number, path in enumerate(paths):
        monkeypatch.setattr("time.time", lambda at=number: 1e9 + 1e6 * at)
        monkeypatch.setattr("platform.node", lambda at=number: f"host-{at}")
        write(path, content, a_job().provenance)
        os.utime(path, (0, 0))
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    for word in (platform.node(), str(tmp_path), "host-0"):
        assert word.encode() not in first


def test_other_settings_give_other_bytes(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_images(tmp_path / f"{seed}", an_image_set(), a_job(f'{{"seed":{seed}}}').provenance)
    assert (tmp_path / "0").read_bytes() != (tmp_path / "1").read_bytes()


def test_equal_content_gives_equal_bytes_in_another_process(tmp_path: Path) -> None:
    """Hash seeds differ between processes: an order taken from a set would show."""
    code = (
        "import sys, numpy as np, torch\nfrom pathlib import Path\nfrom distillery.storage.images import *\n"
        "from distillery.storage.tensors import *\n"
        "from distillery.storage.images import encode_png\n"
        "pixels = np.arange(4 * 3 * 64, dtype=np.uint8).reshape(4, 3, 8, 8)\n"
        "columns = {name: np.arange(4) for name in ('slot', 'candidate', 'seed')}\n"
        "images = ImageSet([encode_png(p) for p in pixels], np.zeros(4, np.int64), ['a', 'b'], list('abcd'), columns)\n"
        "write_images(Path(sys.argv[1]), images, {'b': '1', 'a': '2'})\n"
        "tensors = {name: torch.arange(3.0) for name in ('x', 'b', 'a')}\n"
        "write_tensors(Path(sys.argv[1] + '.st'), tensors, {'b': '1', 'a': '2'})\n"
    )
    for number in range(2):
        environment = {**os.environ, "PYTHONHASHSEED": str(number)}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / str(number))], env=environment, check=True)
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
    assert (tmp_path / "0.st").read_bytes() == (tmp_path / "1.st").read_bytes()


@pytest.mark.parametrize(
    ("package", "homes"),
    [("safetensors", {"storage/tensors.py"}), ("tempfile", {"storage/spool.py", "devices.py", "commands/export.py"})],
    ids=["the format of tensors", "files without a name"],  # a lease and an export are no buffers
)
def test_one_module_knows(package: str, homes: set[str]) -> None:
    source = PROJECT / "src/distillery"
    imports = re.compile(rf"^\s*(from|import) {package}\b", re.MULTILINE)
    users = [path for path in source.rglob("*.py") if imports.search(path.read_text("utf-8"))]
    assert {str(path.relative_to(source)) for path in users} == homes


# ---- image sets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_survive_the_round_trip(tmp_path: Path, channels: int) -> None:
    pixels = pictures(6, channels)
    write_images(tmp_path / "images.parquet", an_image_set(6, channels), MADE_BY)
    found = read_images(tmp_path / "images.parquet", "test")
    assert np.array_equal(found.pixels(), pixels)
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert found.labels.dtype == np.int64
    assert found.classes == CLASSES
    assert found.paths == [f"place/{row}.png" for row in range(6)]
    assert found.columns == {}


def test_columns_survive_the_round_trip(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    columns = {
        "slot": np.arange(6),
        "learnability": draws.random(6),
        "student_loss": draws.random(6).astype(np.float32),
        "student_correct": draws.random(6) > 0.5,
        "latent": draws.random((6, 16)).astype(np.float32),
    }
    write_images(tmp_path / "images.parquet", an_image_set(6, **columns), MADE_BY)
    found = read_images(tmp_path / "images.parquet", "test").columns
    assert list(found) == list(columns)
    for name, values in columns.items():
        assert found[name].dtype == values.dtype, name
        assert np.array_equal(found[name], values), name


def test_a_set_of_many_chunks_is_read_whole(tmp_path: Path) -> None:
    images = an_image_set(6, slot=np.arange(6), latent=np.arange(24, dtype=np.float32).reshape(6, 4))
    write_images(tmp_path / "images.parquet", images, MADE_BY)
    table = pq.read_table(tmp_path / "images.parquet").replace_schema_metadata(image_table(images).schema.metadata)
    pq.write_table(table, tmp_path / "chunks.parquet", row_group_size=2)
    found = read_images(tmp_path / "chunks.parquet", "test")
    assert found.images == images.images
    assert np.array_equal(found.columns["latent"], images.columns["latent"])


def test_many_images_are_written_in_groups_and_read_a_group_at_a_time(tmp_path: Path) -> None:
    images = an_image_set(1100)
    write_images(tmp_path / "images.parquet", images, MADE_BY)
    assert pq.ParquetFile(tmp_path / "images.parquet").num_row_groups == 3
    assert read_images(tmp_path / "images.parquet", "test").images == images.images
    table = ImageTable(tmp_path / "images.parquet", "test")
    assert list(table.encoded(500, 530)) == images.images[500:530]


def test_groups_are_the_bytes_of_the_whole_table(tmp_path: Path) -> None:
    images = an_image_set(6, latent=np.arange(12, dtype=np.float32).reshape(6, 2)).take(np.arange(1500) % 6)
    write_images(tmp_path / "groups", images, MADE_BY)
    described = image_table(images)
    whole = described.replace_schema_metadata(metadata_of(described, MADE_BY))
    with writing_table(tmp_path / "whole", whole.schema) as writer:
        writer.write_table(whole, row_group_size=ROW_GROUP)
    assert (tmp_path / "groups").read_bytes() == (tmp_path / "whole").read_bytes()


def test_many_images_are_read_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = an_image_set(40)
    for name in "ab":
        write_images(tmp_path / name, written, MADE_BY)
    monkeypatch.setattr(distillery.storage.spool, "MOST_IN_MEMORY", 1000)
    sets = [read_images(tmp_path / name, "ingest") for name in "ab"]
    opened = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]  # noqa: PTH115
    nameless = [name for name in opened if name.startswith(tempfile.gettempdir()) and name.endswith("(deleted)")]
    assert len(nameless) >= 2
    joined = concatenate(sets).take([79, 0, 40, 3])
    assert list(joined.images) == [written.images[row % 40] for row in (79, 0, 40, 3)]
    assert list(joined.images[1:3]) == [written.images[0]] * 2
    assert joined.images[-1] == written.images[3]
    with pytest.raises(IndexError):
        joined.images[4]


def test_the_layout_is_that_of_hugging_face(tmp_path: Path) -> None:
    columns = {"slot": np.arange(6), "score": np.ones(6), "correct": np.ones(6, bool), "latent": np.ones((6, 4))}
    write_images(tmp_path / "images.parquet", an_image_set(6, **columns), MADE_BY)
    schema = pq.read_schema(tmp_path / "images.parquet")
    assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert schema.field("label").type == pa.int64()
    assert json.loads(schema.metadata[b"huggingface"]) == {
        "info": {
            "features": {
                "image": {"_type": "Image"},
                "label": {"_type": "ClassLabel", "names": CLASSES},
                "slot": {"_type": "Value", "dtype": "int64"},
                "score": {"_type": "Value", "dtype": "float64"},
                "correct": {"_type": "Value", "dtype": "bool"},
                "latent": {"_type": "Sequence", "length": 4, "feature": {"_type": "Value", "dtype": "float32"}},
            }
        }
    }


def test_the_images_are_files_that_anything_opens(tmp_path: Path) -> None:
    write_images(tmp_path / "images.parquet", an_image_set(), MADE_BY)
    [first, *_] = pq.read_table(tmp_path / "images.parquet")["image"].to_pylist()
    with Image.open(io.BytesIO(first["bytes"])) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (8, 8))


def test_a_palette_becomes_colour_and_grey_stays_grey() -> None:
    def png(mode: str) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pictures(1, 1)[0, 0]).convert(mode).save(buffer, "PNG")
        return buffer.getvalue()

    for mode, channels in (("L", 1), ("RGB", 3), ("P", 3)):
        one = ImageSet([png(mode)], np.zeros(1, np.int64), ["a"], ["a"])
        assert one.pixels().shape == (1, channels, 8, 8)


def test_images_of_two_sizes_are_no_array() -> None:
    sizes = [encode_png(pictures(1, 1, side)[0]) for side in (8, 9)]
    with pytest.raises(ValueError, match="same shape"):
        ImageSet(sizes, np.zeros(2, np.int64), ["a"], ["a", "b"]).pixels()


def test_rows_are_taken_in_the_order_given() -> None:
    taken = an_image_set(6, slot=np.arange(6), latent=np.eye(6)).take([4, 0, 4])
    assert taken.labels.tolist() == [1, 0, 1]
    assert taken.paths == ["place/4.png", "place/0.png", "place/4.png"]
    assert taken.columns["slot"].tolist() == [4, 0, 4]
    assert taken.columns["latent"].argmax(1).tolist() == [4, 0, 4]
    assert len(taken) == 3
    assert len(an_image_set().take([])) == 0


def test_sets_are_joined_in_order_with_the_columns_that_all_have() -> None:
    one, other = an_image_set(2, slot=np.arange(2), score=np.ones(2)), an_image_set(3, slot=np.arange(3))
    joined = concatenate([one, other])
    assert joined.images == one.images + other.images
    assert joined.labels.tolist() == [0, 1, 0, 1, 2]
    assert {name: values.tolist() for name, values in joined.columns.items()} == {"slot": [0, 1, 0, 1, 2]}


def test_an_empty_set_survives_the_round_trip(tmp_path: Path) -> None:
    write_images(tmp_path / "none.parquet", an_image_set(3, slot=np.arange(3)).take([]), MADE_BY)
    found = read_images(tmp_path / "none.parquet", "test")
    assert len(found) == 0
    assert found.classes == CLASSES


def test_classes_are_read_without_the_images(tmp_path: Path) -> None:
    write_images(tmp_path / "images.parquet", an_image_set(), MADE_BY)
    assert read_classes(tmp_path / "images.parquet", "test") == CLASSES


def test_tensors_survive_the_round_trip(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 4).to(torch.bfloat16),
        "turned": torch.arange(6).view(2, 3).T,
        "trained": torch.ones(2, requires_grad=True),
    }
    write_tensors(tmp_path / "a.safetensors", tensors, MADE_BY, classes=CLASSES, step=3)
    found, about = read_tensors(tmp_path / "a.safetensors", "test")
    assert about == {"classes": CLASSES, "step": 3}
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    assert load_file(tmp_path / "a.safetensors").keys() == tensors.keys()


def test_json_has_sorted_keys_and_ends_its_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1.5], "a": None})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "a": null,\n  "b": [\n    1.5\n  ]\n}\n'
    assert read_json(tmp_path / "a.json", "test") == {"a": None, "b": [1.5]}


# ---- damage ----------------------------------------------------------------------------------------------------------


def _made(kind: str, path: Path) -> None:
    if kind in ("read_images", "read_classes", "read_table"):
        write_images(path, an_image_set(), MADE_BY)
    elif kind == "read_tensors":
        write_tensors(path, {"a": torch.zeros(100)}, MADE_BY)
    else:
        write_json(path, {"a": 1})


READERS = {reader.__name__: reader for reader in (read_images, read_classes, read_table, read_tensors, read_json)}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("kind", READERS)
def test_half_a_file_is_named_with_the_stage_that_makes_it(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / "made" / "artifact"
    _made(kind, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(int(share * len(whole)), len(whole) - 3)])
    with pytest.raises(DamagedArtifact) as damage:
        READERS[kind](path, "train_reference")
    message = str(damage.value)
    assert message.startswith(f"{path}: cannot be read (")
    assert message.endswith("The stage `train_reference` makes it: delete it and run the same command again")
    assert "\n" not in message


@pytest.mark.parametrize("kind", READERS)
def test_another_kind_of_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(b"\x89PNG this is no such file at all, whatever its name says")
    with pytest.raises(DamagedArtifact, match="cannot be read"):
        READERS[kind](path, "ingest")


@pytest.mark.parametrize("reader", [read_images, read_classes])
def test_a_table_without_images_is_named(tmp_path: Path, reader: Callable[[Path, str], object]) -> None:
    write_table(tmp_path / "a.parquet", pa.table({"image": [1], "label": [0]}), MADE_BY)
    with pytest.raises(DamagedArtifact, match="stage `collect`"):
        reader(tmp_path / "a.parquet", "collect")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for reader in READERS.values():
        with pytest.raises(DamagedArtifact, match="nowhere"):
            reader(tmp_path / "nowhere", "ingest")


HEADER = b'{"a":{"data_offsets":[0,4],"dtype":"F32","shape":[1]}}  '


@pytest.mark.parametrize(
    ("content", "reason", "way_out"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the weights", "git lfs pull"),
        (b"", "not a safetensors file", ""),
        (b"\x00" * 7 + b"\xff", "not a safetensors file", ""),
        (b"\x08" + b"\x00" * 7 + b"PK\x03\x04....", "not a safetensors file", ""),
        (len(HEADER).to_bytes(8, "little") + HEADER[:20], "broken off within its header", "download it again"),
        (len(HEADER).to_bytes(8, "little") + HEADER + b"12", "66 bytes of 68", "fetch it again"),
        (b"\x06" + b"\x00" * 7 + b'{"a":1', "not a safetensors file", ""),
    ],
)
def test_a_header_says_why_it_cannot_be_read(tmp_path: Path, content: bytes, reason: str, way_out: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(NotSafetensors) as error:
        read_header(tmp_path / "a")
    assert str(error.value) == reason
    assert way_out in error.value.way_out


def test_a_header_names_tensors_and_metadata_without_torch(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", {"x": torch.zeros(2, 3), "n": torch.zeros(4, dtype=torch.int64)}, MADE_BY, step=3)
    header = read_header(tmp_path / "a")
    assert header.shapes == {"x": ("F32", (2, 3)), "n": ("I64", (4,))}
    assert header.start + 2 * 3 * 4 + 4 * 8 == (tmp_path / "a").stat().st_size
    assert json.loads(header.metadata["about"]) == {"step": 3}
    code = (
        "import sys\nfrom pathlib import Path\nfrom distillery.storage.tensors import described_tensors\n"
        "print(described_tensors(Path(sys.argv[1])), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "{'step': 3} False\n"


def test_what_grows_has_one_writer(tmp_path: Path) -> None:
    shape = {"rows": (np.dtype(np.float16), (4, 3))}
    with growing_tensors(tmp_path / "t", shape, MADE_BY, False) as writer:
        writer.put("rows", 0, np.full((4, 3), 5, np.float16))
        for goes_on in (False, True):
            with (
                pytest.raises(BadInput, match=r"t.resume.part: another process writes it"),
                growing_tensors(tmp_path / "t", shape, MADE_BY, goes_on),
            ):
                pytest.fail("it was opened twice")
    assert (read_tensors(tmp_path / "t", "test")[0]["rows"] == 5).all()


def test_a_flipped_bit_is_told_and_not_read(tmp_path: Path) -> None:
    images = an_image_set(6).take(np.arange(300) % 6)
    write_images(tmp_path / "whole", images, MADE_BY)
    content = (tmp_path / "whole").read_bytes()
    end = len(content) - int.from_bytes(content[-8:-4], "little") - 8
    for place in np.random.default_rng(0).integers(4, end, 60).tolist():
        (tmp_path / "flipped").write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            read = read_images(tmp_path / "flipped", "ingest")
        except DamagedArtifact:
            continue
        assert list(read.images) == list(images.images)  # of the header of a page, which says nothing of the picture
        assert read.labels.tolist() == images.labels.tolist()


def test_a_folder_of_temporary_files_that_is_full_is_named_and_no_artifact_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_images(tmp_path / "a", an_image_set(6), MADE_BY)
    monkeypatch.setattr(distillery.storage.images, "Spooled", full)
    with pytest.raises(BadInput, match=r"no room for .* GiB of images; set TMPDIR"):
        read_images(tmp_path / "a", "ingest")
    monkeypatch.setattr(distillery.data.pixels, "MOST_IN_MEMORY", 10)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(BadInput, match=r"no room for .* GiB of images; set TMPDIR"):
        distillery.data.pixels.room_for((4, 5))


def test_stacks_are_written_as_the_tensors_that_they_make(tmp_path: Path) -> None:
    tensors = {"0/scale": torch.rand(3, 2), "0/batches": torch.tensor(7)}
    stack = [torch.rand(4, 5) for _ in range(3)]
    write_stacks(tmp_path / "stacks", tensors, {"gradients": stack}, {"stage": "a"}, kept=[0, 2, 5])
    write_tensors(tmp_path / "tensors", {**tensors, "gradients": torch.stack(stack)}, {"stage": "a"}, kept=[0, 2, 5])
    found, about = read_tensors(tmp_path / "stacks", "a")
    expected, _ = read_tensors(tmp_path / "tensors", "a")
    assert about == {"kept": [0, 2, 5]} and found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value)


def test_tensors_that_are_named_are_left_in_the_file(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {"small": torch.ones(2), "large": torch.ones(9)}, {"stage": "a"})
    assert [*read_tensors(tmp_path / "file", "a", without=["large"])[0]] == ["small"]
