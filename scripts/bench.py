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
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402
from bench_acquisition import DATA, acquisition_rows  # noqa: E402
from bench_agreement import agreement_rows  # noqa: E402
from bench_dicom import dicom_rows  # noqa: E402
from bench_endpoint import endpoint_rows  # noqa: E402
from bench_serving import serving_rows  # noqa: E402
from bench_store import store_rows  # noqa: E402
from bench_training import training_rows  # noqa: E402
from measuring import Row, compare  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from apps.accounts import Accounts  # noqa: E402
from apps.settings import make_site  # noqa: E402
from labeling_protocols.assessment import assess  # noqa: E402
from labeling_protocols.consensus import majority  # noqa: E402
from labeling_protocols.geometry import Volume  # noqa: E402
from labeling_protocols.label import Label  # noqa: E402
from labeling_protocols.protocol import SHIPPED, load_protocol  # noqa: E402
from labeling_protocols.records import Role  # noqa: E402
from labeling_protocols.store import Store  # noqa: E402
from labeling_protocols.worklist import next_case  # noqa: E402
from training.samples import phantom  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument(
        "--data",
        type=Path,
        default=_data(),
        help=f"folder with images/ and labels/ (default: phantoms); acquisition also takes {', '.join(DATA)}",
    )
    parser.add_argument("--cases", type=int, help="how many (default: 60 for loop, 20,000 for store)")
    parser.add_argument("--seeds", type=int, help="how often acquisition repeats everything (default: 5)")
    parser.add_argument("--resume", type=Path, help="folder where acquisition keeps its runs and finds earlier ones")
    parser.add_argument("--out", type=Path, help="folder for acquisition's picture and table")
    parser.add_argument("--quick", action="store_true", help="a small label and few repeats: figures mean nothing")
    arguments = parser.parse_args()
    rows = BENCHMARKS[arguments.name](arguments)
    show(arguments.name, rows)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0


def acquisition(arguments: argparse.Namespace) -> list[Row]:
    """Strategies of active learning beside foreground-aware random, with the same seconds of simulated annotation."""
    named = str(arguments.data) in DATA
    return acquisition_rows(
        _data() if named else arguments.data,
        str(arguments.data) if named else "all",
        seeds=arguments.seeds,
        quick=arguments.quick,
        resume=arguments.resume,
        out=arguments.out,
    )


def loop(arguments: argparse.Namespace) -> list[Row]:
    """The seconds of each stage of the demo, then its parts that a peer can do too."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--out", out]
        command += ["--cases", str(arguments.cases or 60)]
        if arguments.data:
            command += ["--data", str(arguments.data)]
        subprocess.run(command, check=True)
        report = json.loads((Path(out) / "report.json").read_text())
    rows = [Row(name=f"stage {name}", ours=seconds) for name, seconds in report["seconds"].items()]
    return [*rows, *parts()]


def store(arguments: argparse.Namespace) -> list[Row]:
    """The store among 20,000 cases beside itself among ten; saving, reading and weighing a label beside its peers."""
    small = {"shape_ZYX": (24, 64, 64), "repeats": 2} if arguments.quick else {}
    return store_rows(cases=arguments.cases or 20_000, **small)


def agreement(arguments: argparse.Namespace) -> list[Row]:
    """Consensus and agreement of several readers of one large volume, beside SimpleITK and MONAI."""
    return agreement_rows(**({"shape_ZYX": (24, 64, 64), "repeats": 2} if arguments.quick else {}))


def serving(arguments: argparse.Namespace) -> list[Row]:
    """Whole inference requests, and the server's other answers meanwhile, beside monailabel 0.8.5's own server."""
    small = {"shape_ZYX": (48, 96, 96), "images": 1, "epochs": 1} if arguments.quick else {}
    return serving_rows(arguments.data, **small)


def dicom(arguments: argparse.Namespace) -> list[Row]:
    """Segmentations of 200 slices written and read, beside highdicom and dcmqi."""
    return dicom_rows(**({"shape_ZYX": (24, 64, 64), "repeats": 2} if arguments.quick else {}))


def endpoint(arguments: argparse.Namespace) -> list[Row]:
    """Series taken in durably and read as volumes, beside Orthanc, pydicom and SimpleITK."""
    return endpoint_rows(**({"shape_ZYX": (10, 64, 64), "rounds": 1} if arguments.quick else {}))


def training(arguments: argparse.Namespace) -> list[Row]:
    """Training steps beside a plain MONAI loop, and metrics logged beside MLflow's own way."""
    return training_rows(arguments.data, **({"cases": 4, "rounds": 1} if arguments.quick else {}))


def parts() -> list[Row]:
    """Judging, settling and saving one label of a volume the demo's size, beside the libraries people use for it."""
    import torch  # heavy, and only needed here
    from monai.metrics import compute_dice, compute_hausdorff_distance

    protocol = load_protocol(SHIPPED / "hippocampus.yaml")
    image, first = phantom(np.random.default_rng(1))
    second = Volume(array_ZYX=np.roll(first.array_ZYX, 1, axis=1), geometry=first.geometry)
    labels = [volume.array_ZYX.astype(np.uint8) for volume in (first, second)]
    reads = {
        name: Label(geometry=image.geometry, layers_LZYX=x[np.newaxis]) for name, x in zip("ab", labels, strict=True)
    }
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
        compare("agreement of 2 reads", lambda: assess(protocol, reads), monai_agreement),
        compare(
            "majority of 3 reads", lambda: majority(protocol, three, spacing), lambda: sitk.LabelVoting(images, 255)
        ),
        _save(image, reads["a"]),
    ]


def _save(image: Volume, drawn: Label) -> Row:
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

        def changed() -> Label:
            layers = drawn.layers_LZYX.copy()
            layers.ravel()[next(turn) % layers.size] = 1
            return Label(geometry=drawn.geometry, layers_LZYX=layers)

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


def show(name: str, rows: list[Row]) -> None:
    table = Table("What", "Ours", "Peer", "Unit", "Times better", "Goal", title=f"bench {name}")
    for row in rows:
        figures = (f"{figure:.4g}" if figure is not None else "" for figure in (row.ours, row.peer))
        ratio, goal = (f"{figure:.3g}" if figure is not None else "" for figure in (row.ratio, row.goal))
        table.add_row(row.name, *figures, row.unit, ratio, goal)
    Console().print(table)


def _data() -> Path | None:
    folder = Path(os.environ.get("OVERREAD_TEST_DATA", ROOT.parent / "shared" / "data")) / "hippocampus"
    return folder if folder.is_dir() else None


BENCHMARKS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "acquisition": acquisition,
    "agreement": agreement,
    "dicom": dicom,
    "endpoint": endpoint,
    "loop": loop,
    "serving": serving,
    "store": store,
    "training": training,
}

if __name__ == "__main__":
    raise SystemExit(main())
