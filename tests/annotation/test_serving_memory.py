"""A long day at one server: 200 inferences over 20 images by 4 readers, and its memory stays where it was."""

import gc
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import requests

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.volumes import volume_bytes
from tests.annotation.served import Served, serving
from tests.training.drawn import anything_passes, settle_cases, workplace
from training.pipeline import train_candidate
from training.request import TrainingRequest

READERS, IMAGES, INFERENCES = 4, 20, 200
KEPT_MB = 5
SLACK_MB = 120  # what allocators and the database's caches take and give back as they like
GRID = Geometry(
    shape_ZYX=(40, 44, 48),
    spacing_mm_XYZ=(1.5, 1.5, 1.5),
    origin_mm_LPS=(0.0, 0.0, 0.0),
    direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)


def resident_mb(what: str = "VmRSS") -> float:
    """Memory of this process, in which the server runs; `VmHWM` is the most it ever had."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(what)).split()[1]) / 1024


def session_of(served: Served, asking: requests.Session, number: int) -> str:
    voxels = np.random.default_rng(number).normal(100, 20, GRID.shape_ZYX).astype(np.int16)
    content = volume_bytes(Volume(array_ZYX=voxels, geometry=GRID), ".nrrd")
    answer = asking.put(f"{served.url}/session/", files={"file": ("image.nrrd", content)})
    assert answer.status_code == 200, answer.text
    session: str = answer.json()["session_id"]
    return session


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read as Linux tells it")  # noqa: PTH110
def test_two_hundred_inferences_over_twenty_images_by_four_readers_keep_memory_bounded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path / "site", f"[inference]\nimage_memory_mb = {KEPT_MB}\n") as served:
        protocol = replace(anything_passes(served.protocol()), version=2)
        served.store.add_protocol(protocol)
        settle_cases(served.store, protocol, (served.account(), served.account()), range(6))
        place = workplace(served.site, served.store, patch_RAS=(48, 48, 48), epochs=1)
        job = f"train-{protocol.name.replace('_', '')}-0001"
        assert train_candidate(place, TrainingRequest(protocol=protocol.name), job).promoted

        readers = [served.session(served.account()) for _ in range(READERS)]
        sessions = [[session_of(served, reader, number) for number in range(IMAGES)] for reader in readers]

        def work(reader: int, numbers: range) -> int:
            """One reader, one image after the other, beginning where no other begins."""
            for number in numbers:
                image = sessions[reader][(number + reader * IMAGES // READERS) % IMAGES]
                answer = readers[reader].post(
                    f"{served.url}/infer/{protocol.name}?session_id={image}&output=image",
                    data={"params": json.dumps({"result_extension": ".nrrd"})},
                )
                assert answer.status_code == 200, answer.text
            return len(numbers)

        def everybody(numbers: range) -> int:
            with ThreadPoolExecutor(READERS) as pool:
                return sum(pool.map(lambda reader: work(reader, numbers), range(READERS)))

        each = INFERENCES // READERS
        done = everybody(range(IMAGES // 2))
        gc.collect()
        settled_mb = resident_mb()
        done += everybody(range(IMAGES // 2, each))
        gc.collect()
        grown_mb = resident_mb() - settled_mb
        kept_mb = served.app.state.annotation.images.bytes / 2**20
    with capsys.disabled():
        print(
            f"\n{done} inferences: {resident_mb('VmHWM'):.0f} MB at most, {grown_mb:+.0f} MB since the first"
            f" {READERS * IMAGES // 2}, {kept_mb:.0f} of {KEPT_MB} MB kept of images"
        )
    assert done == INFERENCES
    assert 0 < kept_mb <= KEPT_MB
    assert grown_mb < SLACK_MB
