"""Memory that does not grow with the data, of ingest, encoding and collecting; and ingest against a bare Pillow loop.

    python benchmarks/ingest.py                       # both, 10,000 and 100,000 made images
    python benchmarks/ingest.py --memory 2000 20000   # memory alone, at these numbers
    python benchmarks/ingest.py --speed 2000          # speed alone, on so many images of camera size

Memory is the sum over the processes of a job of what each holds alone and its share of the rest (PSS), sampled every
0.2 s. The bare loop reads, converts, crops, resizes and writes PNG with the same Pillow calls, in one process.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIDE = 32
MANY = 1_300_000
MOST_BYTES = 4 * 2**30
LEAST_SHARE = 0.8


def made_table(path: Path, count: int) -> None:
    """So many small pictures of ten classes as one Parquet file."""
    rng = np.random.default_rng(0)
    few = []
    for _ in range(100):
        buffer = io.BytesIO()
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        small.resize((64, 48), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        few.append(buffer.getvalue())
    kind = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
    schema = pa.schema([pa.field("image", kind), pa.field("label", pa.int64())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, 1000):
            rows = range(start, min(start + 1000, count))
            images = [{"bytes": few[row % 100], "path": f"{row:08d}.jpg"} for row in rows]
            labels = pa.array([row % 10 for row in rows], pa.int64())
            writer.write_table(pa.table([pa.array(images, kind), labels], schema))


def made_folder(folder: Path, count: int) -> list[Path]:
    """So many pictures of camera size, 500 x 375, in two class folders."""
    rng = np.random.default_rng(0)
    files = []
    for row in range(count):
        path = folder / f"class-{row % 2}" / f"{row:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (38, 50, 3), dtype=np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)
        files.append(path)
    return files


def measured(stage: str, settings: object, cores: int, **files: Path) -> tuple[float, int, float]:
    """Run a stage on so many cores: seconds, peak memory in bytes, processor seconds."""
    command = [sys.executable, "-m", "distillery", stage, "--settings", json.dumps(settings)]
    for name, path in files.items():
        command += [f"--{name}", str(path)]
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, allowed)  # children inherit it
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    os.sched_setaffinity(0, before)
    peak, start, busy = 0, time.monotonic(), 0.0
    while process.poll() is None:
        total, used = 0, 0.0
        for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            try:
                total += one.memory_full_info().pss
                used += sum(one.cpu_times()[:2])
            except psutil.Error:
                continue
        peak, busy = max(peak, total), max(busy, used)
        time.sleep(0.2)
    seconds = time.monotonic() - start
    assert process.returncode == 0, process.stderr.read() if process.stderr else ""
    return seconds, peak, busy


def ingest(source: dict[str, object], side: int, folder: Path, cores: int) -> tuple[float, int, float]:
    """`measured` of that stage."""
    dataset = {"source": source, "resolution": side, "holdout": {"fraction": 0.1}, "max_leaked": 1.0}
    files = {name: folder / f"{name}.parquet" for name in ("train", "test", "rejected", "duplicates")}
    return measured("ingest", {"dataset": dataset}, cores, **files)


def bare_loop(files: list[Path], side: int) -> float:
    """Processor seconds of the plain loop over the same files."""
    start = time.process_time()
    for path in files:
        with Image.open(path) as image:
            picture = image.convert("RGB")
        edge = min(picture.size)
        left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
        box = (left, top, left + edge, top + edge)
        picture.resize((side, side), Image.Resampling.BICUBIC, box).save(io.BytesIO(), "PNG")
    return time.process_time() - start


def tiny_autoencoder(folder: Path) -> Path:
    """An untrained autoencoder of few channels, in the layout of diffusers; its configuration."""
    from diffusers import AutoencoderKL

    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        sample_size=SIDE,
    ).save_pretrained(folder)
    return folder / "config.json"


def with_slots(source: Path, target: Path) -> None:
    """The images of a table as a distilled set: each has its slot within its class."""
    with pq.ParquetFile(source) as file:
        schema = file.schema_arrow.append(pa.field("slot", pa.int64()))
        seen: Counter[int] = Counter()
        with pq.ParquetWriter(target, schema) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                slots = []
                for label in table["label"].to_pylist():
                    slots.append(seen[label])
                    seen[label] += 1
                writer.write_table(table.append_column("slot", pa.array(slots, pa.int64())).cast(schema))


def stages(count: int, folder: Path, autoencoder: Path, cores: int) -> Iterator[tuple[str, float, int]]:
    """Stages on so many images, each on what the one before has made: name, seconds, peak memory."""
    source = folder / "source.parquet"
    train, latents, slots = (folder / name for name in ("train.parquet", "latents.safetensors", "slots.parquet"))
    folder.mkdir()
    made_table(source, count)
    seconds, peak, _ = ingest({"kind": "parquet", "train": [str(source)]}, SIDE, folder, cores)
    yield "ingest", seconds, peak
    seconds, peak, _ = measured(
        "encode_latents", {}, cores, images=train, autoencoder=autoencoder, latents=latents
    )  # its weights lie beside its configuration
    yield "encode_latents", seconds, peak
    with_slots(train, slots)
    seconds, peak, _ = measured("collect", {"ipc": count}, cores, parts=slots, images=folder / "set.parquet")
    yield "collect", seconds, peak


def memory(counts: list[int], folder: Path, cores: int) -> bool:
    """Print the peak memory of each stage at each number of images; whether it is flat and small."""
    autoencoder = tiny_autoencoder(folder / "autoencoder")
    peaks: dict[str, list[int]] = {}
    for count in counts:
        for stage, seconds, peak in stages(count, folder / str(count), autoencoder, cores):
            peaks.setdefault(stage, []).append(peak)
            words = f"{stage:14} {count:>9} images  {peak / 2**20:7.0f} MB  {seconds:7.1f} s"
            print(f"{words}  {count / seconds:7.0f} images/s", flush=True)
    good = True
    for stage, found in peaks.items():
        grown = max(found[-1] - found[0], 0) / max(counts[-1] - counts[0], 1)
        at = found[-1] + grown * (MANY - counts[-1])
        good &= at < MOST_BYTES
        print(f"{stage:14} {grown:.0f} bytes more per image: {at / 2**30:.2f} GB at {MANY:,} images")
    return good


def speed(count: int, folder: Path, cores: int) -> bool:
    """Print images per processor second of ingest and of the bare loop; whether the one is near the other."""
    files = made_folder(folder / "pictures", count)
    few = made_folder(folder / "few", 20)
    plain = len(files) / bare_loop(files, 256)
    source: dict[str, object] = {"kind": "folder", "train": str(few[0].parents[1])}
    *_, idle = ingest(source, 256, folder / "a", cores)  # what starting costs
    source = {"kind": "folder", "train": str(files[0].parents[1])}
    seconds, _, busy = ingest(source, 256, folder / "b", cores)
    ours = len(files) / max(busy - idle, 1e-9)
    print(f"bare loop  {plain:7.1f} images per processor second")
    print(f"ingest     {ours:7.1f} images per processor second on {cores} cores, {count / seconds:.1f} images/s in all")
    print(f"share      {ours / plain:7.2f}  (at least {LEAST_SHARE})")
    return ours / plain >= LEAST_SHARE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--memory", type=int, nargs="*", metavar="IMAGES")
    parser.add_argument("--speed", type=int, metavar="IMAGES")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    both = options.memory is None and options.speed is None
    good = True
    with tempfile.TemporaryDirectory() as name:
        if both or options.memory is not None:
            good &= memory(options.memory or [10_000, 100_000], Path(name), options.cores)
        if both or options.speed:
            good &= speed(options.speed or 3000, Path(name), options.cores)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
