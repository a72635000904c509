"""monailabel 0.8.5 as it comes, in a process of its own: a network's weights and plan in, a server's address out.

Its app is made in a temporary folder the way monailabel's own radiology sample is: a `BasicInferTask` with dictionary
transforms, a sliding window and `Restored`. Only the mends that it needs beside current libraries are made.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import requests
import torch
from torch import Tensor

from labeling_protocols.geometry import Volume
from labeling_protocols.volumes import write_volume
from tests.ports import free_ports
from training.networks import network_config
from training.plan import Plan

MODEL, STRATEGY = "segmentation", "first"
_ROOT = Path(__file__).resolve().parents[1]
_START_LIMIT_S = 180.0

_START = """
from apps import compat
compat.mend()
import sys
from monailabel.main import Main
sys.argv = ["monailabel", "start_server", "--app", sys.argv[1], "--studies", sys.argv[2], "--host", "127.0.0.1",
            "--port", sys.argv[3], "--log_level", "error"]
Main().run()
"""

_APP = """
import json
from pathlib import Path

from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from monai.transforms import (Activationsd, AsDiscreted, EnsureChannelFirstd, EnsureTyped, LoadImaged,
                              NormalizeIntensityd, Orientationd, Spacingd)
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.transform.post import Restored

HERE = Path(__file__).parent
PLAN = json.loads((HERE / "plan.json").read_text())


class Segmentation(BasicInferTask):
    def pre_transforms(self, data=None):
        return [
            LoadImaged(keys="image", reader="ITKReader"),
            EnsureTyped(keys="image", device=data.get("device") if data else None),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS"),
            Spacingd(keys="image", pixdim=PLAN["spacing"], mode="bilinear"),
            NormalizeIntensityd(keys="image"),
        ]

    def inferer(self, data=None):
        return SlidingWindowInferer(roi_size=PLAN["patch"], sw_batch_size=1, overlap=PLAN["overlap"], mode="gaussian")

    def post_transforms(self, data=None):
        return [
            EnsureTyped(keys="pred", device=data.get("device") if data else None),
            Activationsd(keys="pred", softmax=True),
            AsDiscreted(keys="pred", argmax=True),
            Restored(keys="pred", ref_image="image"),
        ]


class App(MONAILabelApp):
    def __init__(self, app_dir, studies, conf):
        super().__init__(app_dir, studies, conf, name="stock", description="stock", version="1")

    def init_infers(self):
        network = ConfigParser({"network": PLAN["network"]}).get_parsed_content("network")
        task = Segmentation(path=str(HERE / "model.pt"), network=network, type=InferType.SEGMENTATION,
                            labels=PLAN["labels"], dimension=3, description="stock")
        return {"segmentation": task}

    def init_trainers(self):
        return {}

    def init_strategies(self):
        return {"first": First()}

    def init_scoring_methods(self):
        return {}
"""


@contextlib.contextmanager
def stock_server(
    folder: Path, plan: Plan, weights: Mapping[str, Tensor], images: Mapping[str, Volume], threads: int
) -> Iterator[str]:
    """A server with these images by name, up and with its model loaded; ended with the block."""
    app, studies = folder / "app", folder / "studies"
    app.mkdir(parents=True)
    studies.mkdir()
    for name, image in images.items():
        write_volume(image, studies / f"{name}.nii.gz")
    (app / "main.py").write_text(_APP)
    told = {
        "spacing": list(plan.spacing_mm_RAS),
        "patch": list(plan.patch_RAS),
        "overlap": plan.window_overlap,
        "network": network_config(plan),
        "labels": dict(zip(plan.targets, plan.values[1:], strict=True)),
    }
    (app / "plan.json").write_text(json.dumps(told))
    torch.save(dict(weights), app / "model.pt")
    [port] = free_ports(1)
    # It is started in its own folder: monailabel's settings read a .env from the present one.
    process = subprocess.Popen(
        [sys.executable, "-c", _START, str(app), str(studies), str(port)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log.txt").open("w"),
    )
    try:
        address = f"http://127.0.0.1:{port}"
        await_answer(f"{address}/info/", process, folder / "log.txt")
        yield address
    finally:
        process.terminate()
        process.wait()


def await_answer(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers; raises with the end of its log where it ends instead."""
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        with contextlib.suppress(requests.ConnectionError):
            if requests.get(address, timeout=30).status_code < 500:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{address} does not answer: {log.read_text(errors='replace')[-2000:]}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
