"""Two balls of different brightness, drawn in the patient's millimetres on any grid, and a site that learns them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.settings import Site
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import GateLimits, Protocol
from labeling_protocols.records import Account
from labeling_protocols.settlement import settle
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case
from training.pipeline import Workplace
from training.plan import Normalisation, Plan, Precision
from training.request import TrainingRequest

ANTERIOR, POSTERIOR = 1, 2
# Neither lies in the middle, and no mirroring or turning of the axes takes one to the other.
_BALLS = {ANTERIOR: ((-5.0, 4.0, -3.0), 6.0, 200.0), POSTERIOR: ((6.0, -5.0, 4.0), 4.5, 100.0)}

HIPPOCAMPUS = TrainingRequest(protocol="hippocampus")

STRAIGHT = Geometry(
    shape_ZYX=(18, 20, 20),
    spacing_mm_XYZ=(1.5, 1.5, 1.5),
    origin_mm_LPS=(-14.25, -14.25, -12.75),
    direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)


def turned(direction: NDArray[np.float64], spacing_mm_XYZ: tuple[float, float, float]) -> Geometry:
    """A grid of about 30 mm edges around the same point, with these axes and this spacing."""
    size = [round(30 / spacing) for spacing in spacing_mm_XYZ]
    middle = np.array([(n - 1) / 2 for n in size])
    x, y, z = (float(v) for v in -direction @ (middle * spacing_mm_XYZ))
    return Geometry(
        shape_ZYX=(size[2], size[1], size[0]),
        spacing_mm_XYZ=spacing_mm_XYZ,
        origin_mm_LPS=(x, y, z),
        direction_LPS=tuple(float(v) for v in direction.ravel()),
    )


def draw(seed: int = 0, geometry: Geometry = STRAIGHT, *, scale: float = 1.0) -> tuple[Volume, Volume]:
    """Image and label of one patient: the balls moved and resized a little by the seed, in noise."""
    random = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.arange(n) for n in geometry.shape_ZYX), indexing="ij")
    index = np.stack([x, y, z, np.ones_like(x)], axis=-1)
    point_mm = (index @ geometry.affine_LPS().T)[..., :3]
    image = random.normal(0, 5, geometry.shape_ZYX)
    label = np.zeros(geometry.shape_ZYX, dtype=np.uint8)
    for value, (centre, radius_mm, brightness) in _BALLS.items():
        away_mm = np.linalg.norm(point_mm - (np.array(centre) + random.uniform(-1, 1, 3)), axis=-1)
        inside = away_mm < radius_mm + random.uniform(-0.5, 0.5)
        label[inside] = value
        image[inside] += brightness
    return (
        Volume(array_ZYX=(image * scale).astype(np.float32), geometry=geometry),
        Volume(array_ZYX=label, geometry=geometry),
    )


def small_plan(**values: Any) -> Plan:
    """A plan for the drawn volumes that a core trains in seconds."""
    plan = Plan(
        targets=("anterior", "posterior"),
        values=(0, ANTERIOR, POSTERIOR),
        spacing_mm_RAS=(1.5, 1.5, 1.5),
        patch_RAS=(20, 20, 20),
        normalisation=Normalisation.ZSCORE,
        intensity_mean=0.0,
        intensity_std=1.0,
        intensity_low=0.0,
        intensity_high=1.0,
        network="UNet",
        channels=(8, 16, 16),
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
        batch=2,
        epochs=40,
        learning_rate=0.02,
        weight_decay=0.0,
        validate_every=10,
        precision=Precision.FP32,
        window_overlap=0.25,
        seed=3,
    )
    return replace(plan, **values)


SMALL = {
    "channels": (4, 8, 8),
    "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    "patch_RAS": (20, 20, 20),
    "precision": "fp32",
    "epochs": 2,
}


def anything_passes(protocol: Protocol, **limits: Any) -> Protocol:
    """The protocol with a gate that refuses nothing but what `limits` say."""
    lenient: dict[str, Any] = {
        "dice_mean_min": 0.0,
        "dice_min": dict.fromkeys(protocol.values, 0.0),
        "missed_max": 1000,
        "dice_drop_max": 1.0,
    }
    return replace(protocol, gate=GateLimits(**{**lenient, **limits}))


def settle_cases(store: Store, protocol: Protocol, readers: Sequence[Account], seeds: range) -> None:
    """Cases of drawn patients, each read the same by both readers, so that all of them are settled."""
    labels = {}
    for seed in seeds:
        image, label = draw(seed)
        case, _ = store.add_case(protocol=protocol.name, patient=f"P{seed}", volume=image, modality="MR")
        labels[case.id] = label
    for reader in readers:
        while case := next_case(store, protocol.name, reader.id):  # type: ignore[assignment]
            store.save_read(case_id=case.id, reader=reader.id, label=Label.of(labels[case.id]))
            settle(store, case.id)


def job_of(number: int) -> str:
    return f"train-hippocampus-{number:04d}"


def workplace(site: Site, store: Store, **overrides: Any) -> Workplace:
    return Workplace(
        store=store,
        tracking_uri=site.tracking_uri,
        artifacts=site.folder("mlflow") / "artifacts",
        folder=site.folder("training"),
        bundles=site.folder("bundles"),
        change_plans=site.folder("change_control"),
        secret=site.secret,
        signing_key=site.signing_key,
        device="cpu",
        overrides={**SMALL, **overrides},
    )
