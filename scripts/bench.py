"""Benchmarks by name: each does our work and a named peer's in one run, and tells how many times better ours is.

A row is `{name, ours, peer, unit, ratio, goal}`; `ratio` is how many times better than the peer, and None, like `peer`,
where nobody else does the same work. Figures are medians; nothing here passes or fails.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from apps.accounts import Accounts  # noqa: E402
from apps.settings import make_site  # noqa: E402
from labeling_protocols.agreement import assess  # noqa: E402
from labeling_protocols.consensus import majority  # noqa: E402
from labeling_protocols.geometry import Volume  # noqa: E402
from labeling_protocols.protocol import SHIPPED, load_protocol  # noqa: E402
from labeling_protocols.records import Role  # noqa: E402
from labeling_protocols.store import Store  # noqa: E402
from labeling_protocols.worklist import next_case  # noqa: E402
from training.samples import phantom  # noqa: E402

REPEATS = 15


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure; lower is better for seconds."""

    name: str
    ours: float
    peer: float | None = None
    unit: str = "s"
    ratio: float | None = None
    goal: float | None = None


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument(
        "--data", type=Path, default=_data(), help="folder with images/ and labels/ (default: phantoms)"
    )
    parser.add_argument("--cases", type=int, default=60)
    arguments = parser.parse_args()
    rows = BENCHMARKS[arguments.name](arguments)
    show(arguments.name, rows)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0


def loop(arguments: argparse.Namespace) -> list[Row]:
    """The seconds of each stage of the demo, then its parts that a peer can do too."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--out", out, "--cases", str(arguments.cases)]
        if arguments.data:
            command += ["--data", str(arguments.data)]
        subprocess.run(command, check=True)
        report = json.loads((Path(out) / "report.json").read_text())
    rows = [Row(name=f"stage {name}", ours=seconds) for name, seconds in report["seconds"].items()]
    return [*rows, *parts()]


def parts() -> list[Row]:
    """Judging, settling and saving one label of a volume the demo's size, beside the libraries people use for it."""
    import torch  # heavy, and only needed here
    from monai.metrics import compute_dice, compute_hausdorff_distance

    protocol = load_protocol(SHIPPED / "hippocampus.yaml")
    image, first = phantom(np.random.default_rng(1))
    second = Volume(array_ZYX=np.roll(first.array_ZYX, 1, axis=1), geometry=first.geometry)
    labels = [volume.array_ZYX.astype(np.uint8) for volume in (first, second)]
    spacing = image.geometry.spacing_mm_ZYX

    def monai_agreement() -> None:
        onehot = [
            torch.from_numpy(np.stack([x == v for v in protocol.values.values()])[None].astype(np.float32))
            for x in labels
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compute_dice(*onehot)
            compute_hausdorff_distance(*onehot, include_background=True, percentile=95, spacing=list(spacing))

    images = [sitk.GetImageFromArray(x) for x in (*labels, labels[0])]
    three = [*labels, labels[0]]
    return [
        compare(
            "agreement of 2 reads", lambda: assess(protocol, {"a": labels[0], "b": labels[1]}, spacing), monai_agreement
        ),
        compare(
            "majority of 3 reads", lambda: majority(protocol, three, spacing), lambda: sitk.LabelVoting(images, 255)
        ),
        _save(image, [Volume(array_ZYX=x, geometry=first.geometry) for x in labels]),
    ]


def _save(image: Volume, labels: list[Volume]) -> Row:
    """A durable save of a label: through the store, and as nibabel .nii.gz with a SHA-256 and a SQLite commit."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        site = make_site(Path(folder) / "site")
        store = Store(site.database_url, site.blobs)
        store.add_protocol(load_protocol(SHIPPED / "hippocampus.yaml"))
        reader = Accounts(store, site).add("reader", "a long password", frozenset({Role.READER}))
        store.add_case(protocol="hippocampus", patient="P", volume=image, modality="MR")
        case = next_case(store, "hippocampus", reader.id)
        assert case is not None
        database = sqlite3.connect(Path(folder) / "peer.db")
        database.execute("create table labels (digest text)")
        turn = iter(range(10**6))

        def changed() -> Volume:
            array = labels[0].array_ZYX.copy()
            array.ravel()[next(turn) % array.size] = 1
            return Volume(array_ZYX=array, geometry=labels[0].geometry)

        def peer() -> None:
            label = changed()
            path = Path(folder) / f"{next(turn)}.nii.gz"
            nib.save(nib.Nifti1Image(label.array_ZYX.T, label.geometry.affine_RAS()), path)
            database.execute("insert into labels values (?)", (hashlib.sha256(path.read_bytes()).hexdigest(),))
            database.commit()

        row = compare("save a label", lambda: store.save_read(case_id=case.id, reader=reader.id, label=changed()), peer)
        store.close()
        database.close()
        return row


def compare(name: str, ours: Callable[[], object], peer: Callable[[], object], goal: float | None = None) -> Row:
    """Medians of both, measured in turn so that a drifting machine meets both alike."""
    ours(), peer()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for work, taken in zip((ours, peer), seconds, strict=True):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
    mine, theirs = (statistics.median(taken) for taken in seconds)
    return Row(name=name, ours=mine, peer=theirs, ratio=theirs / mine, goal=goal)


def show(name: str, rows: list[Row]) -> None:
    table = Table("What", "Ours", "Peer", "Unit", "Times better", "Goal", title=f"bench {name}")
    for row in rows:
        figures = (f"{figure:.4g}" if figure is not None else "" for figure in (row.ours, row.peer))
        ratio, goal = (f"{figure:.1f}" if figure is not None else "" for figure in (row.ratio, row.goal))
        table.add_row(row.name, *figures, row.unit, ratio, goal)
    Console().print(table)


def _data() -> Path | None:
    folder = Path(os.environ.get("OVERREAD_TEST_DATA", ROOT.parent / "shared" / "data")) / "hippocampus"
    return folder if folder.is_dir() else None


BENCHMARKS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {"loop": loop}

if __name__ == "__main__":
    raise SystemExit(main())
