"""What a classification's plan differs in: a fingerprint at which a whole volume fits one patch, and its own network.

A classification is of the whole case, so that nothing may be cut off; it is learned at a coarser spacing instead.
"""

from dataclasses import replace

import numpy as np

from training.plan import CPU_BUDGET, Fingerprint, Plan

NETWORK = "DenseNet"
_LEARNING_RATE = 1e-3
_BATCH = 4  # small networks; cross-entropy on one or two cases says little
_ROOM = 0.75  # of the largest patch: a plan rounds its patch up
_STEP = 1.05


def coarse_fingerprint(fingerprint: Fingerprint, patch_voxels_max: int = CPU_BUDGET.patch_voxels) -> Fingerprint:
    """The fingerprint to make a classification's plan of: the finest axes are coarsened, no further than is needed."""
    extent_mm = np.multiply(fingerprint.shape_max_RAS, fingerprint.spacing_mm_RAS)
    finest = min(fingerprint.spacing_mm_RAS)
    while True:
        spacing_mm = np.round(np.maximum(fingerprint.spacing_mm_RAS, finest), 4)
        shape = np.ceil(np.round(extent_mm / spacing_mm, 3)).astype(int)
        if shape.prod() <= _ROOM * patch_voxels_max:
            x, y, z = shape.tolist()
            sx, sy, sz = spacing_mm.tolist()
            return replace(fingerprint, spacing_mm_RAS=(sx, sy, sz), shape_RAS=(x, y, z))
        finest *= _STEP


def plan_classification(plan: Plan) -> Plan:
    """A plan made for any task as one for a classification."""
    return replace(plan, network=NETWORK, learning_rate=_LEARNING_RATE, batch=_BATCH, deep_supervision=False)
