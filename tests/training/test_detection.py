"""Boxes in the patient and on the network's grid, plans, patches, and the loss of a detection."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Box, Label
from tests.training.drawn import STRAIGHT, turned
from tests.training.drawn_spheres import CUBE, VALUES, draw_spheres, sphere, sphere_plan
from tests.training.test_inference import GRIDS
from training.detection import DetectionLearner
from training.detection_boxes import boxes_in_patient, boxes_in_voxels, sizes_mm_RAS, true_boxes
from training.detection_network import anchors_voxels, size_divisible
from training.detection_patches import BoxBank, Example
from training.detection_plan import ANCHORS_MAX, derive_anchors, plan_detection
from training.plan import PlanError
from training.preparation import as_tensor, prepare_config

CPU = torch.device("cpu")
PLAN = sphere_plan()
SMALL = replace(PLAN, patch_RAS=(16, 16, 16))


def label_of(geometry: Geometry, *, outlined: list[tuple[slice, slice, slice]], boxes: tuple[Box, ...] = ()) -> Label:
    layers = np.zeros((1, *geometry.shape_ZYX), dtype=np.uint8)
    for sides_ZYX in outlined:
        layers[0][sides_ZYX] = VALUES["nodule"]
    return Label(geometry=geometry, layers_LZYX=layers, boxes=boxes)


# Boxes


def test_what_is_outlined_and_not_boxed_gets_the_box_that_holds_it() -> None:
    """Voxels x 2..4, y 7, z 1..2 of a grid with y turned round and a different spacing along each axis."""
    geometry = Geometry(
        shape_ZYX=(5, 10, 8),
        spacing_mm_XYZ=(0.5, 2.0, 3.0),
        origin_mm_LPS=(10.0, 20.0, 30.0),
        direction_LPS=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    )
    (box,) = true_boxes(label_of(geometry, outlined=[np.s_[1:3, 7:8, 2:5]]), VALUES)
    assert box.centre_mm_LPS == pytest.approx((10 + 0.5 * 3, 20 - 2.0 * 7, 30 + 3.0 * 1.5))
    assert box.size_mm_XYZ == pytest.approx((1.5, 2.0, 6.0))


def test_a_readers_box_stands_for_the_outline_it_lies_in() -> None:
    drawn = Box(structure="nodule", centre_mm_LPS=(-11.25, -11.25, -9.75), size_mm_XYZ=(5.0, 5.0, 5.0))
    outlined = [np.s_[1:4, 1:4, 1:4], np.s_[10:12, 10:12, 10:12]]  # the first is around voxel 2, 2, 2
    boxes = true_boxes(label_of(STRAIGHT, outlined=outlined, boxes=(drawn,)), VALUES)
    assert boxes[0] == drawn
    assert [box.size_mm_XYZ for box in boxes[1:]] == [(3.0, 3.0, 3.0)]


def test_voxels_that_touch_at_a_corner_are_one_thing() -> None:
    boxes = true_boxes(label_of(STRAIGHT, outlined=[np.s_[1:3, 1:3, 1:3], np.s_[3:5, 3:5, 3:5]]), VALUES)
    assert [box.size_mm_XYZ for box in boxes] == [(6.0, 6.0, 6.0)]


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_box_lies_around_its_sphere_on_the_prepared_grid_and_comes_back(grid: Geometry) -> None:
    _, label = draw_spheres(3, grid, count=1)
    (box,) = label.boxes
    filled = sphere(grid, box.centre_mm_LPS, box.size_mm_XYZ[0] / 2).astype(np.float32)
    plan = replace(PLAN, spacing_mm_RAS=(1.0, 0.8, 1.3))
    prepare = ConfigParser({"prepare": prepare_config(plan)}).get_parsed_content("prepare")
    prepared = prepare({"image": as_tensor(Volume(array_ZYX=filled, geometry=grid))})["image"]
    affine = prepared.affine.double().numpy()
    boxes = boxes_in_voxels([box], grid, affine)

    bright = prepared.as_tensor()[0] - prepared.as_tensor().min()
    places = torch.stack(torch.meshgrid(*(torch.arange(n) + 0.5 for n in bright.shape), indexing="ij"), dim=-1)
    middle = (places * bright[..., None]).sum(dim=(0, 1, 2)) / bright.sum()
    assert torch.allclose((boxes[0, :3] + boxes[0, 3:]) / 2, middle.float(), atol=0.6)

    (back,) = boxes_in_patient(["nodule"], boxes, grid, affine)
    assert back.centre_mm_LPS == pytest.approx(box.centre_mm_LPS, abs=1e-4)
    assert back.size_mm_XYZ == pytest.approx(box.size_mm_XYZ, abs=1e-4)


def test_a_box_longer_along_one_axis_stays_so_on_a_sagittal_grid() -> None:
    """The grid's x runs along S, its y along R, and its z along A."""
    grid = turned(np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]]), (1.5, 1.5, 1.5))
    box = Box(structure="nodule", centre_mm_LPS=(0.0, 0.0, 0.0), size_mm_XYZ=(3.0, 6.0, 9.0))
    assert sizes_mm_RAS([box], grid) == [(6.0, 9.0, 3.0)]
    image, _ = draw_spheres(1, grid, count=0)
    plan = replace(PLAN, spacing_mm_RAS=(1.0, 1.5, 3.0))
    affine = DetectionLearner(plan)._prepare({"image": as_tensor(image)})["image"].affine.double().numpy()
    (corners,) = boxes_in_voxels([box], grid, affine)
    assert (corners[3:] - corners[:3]).tolist() == pytest.approx([6.0, 6.0, 1.0], abs=1e-4)


# Plans


def test_boxes_of_one_size_need_one_anchor() -> None:
    assert derive_anchors([(4.0, 5.0, 6.0)] * 3) == ((4.0, 5.0, 6.0),)


def test_anchors_are_the_middles_of_clusters_whatever_the_boxes_order() -> None:
    """Two clusters; the middle of 4 and 9 mm on a logarithmic scale is 6 mm."""
    sizes = [(4.0, 4.0, 4.0), (9.0, 9.0, 9.0), (40.0, 40.0, 20.0), (40.0, 40.0, 20.0)]
    anchors = derive_anchors(sizes)
    assert anchors == derive_anchors(sizes[::-1])
    assert anchors[-1] == (40.0, 40.0, 20.0)
    assert derive_anchors([*sizes[:2], *sizes[:2]])[0] in ((4.0, 4.0, 4.0), (6.0, 6.0, 6.0))


def test_there_are_never_more_anchors_than_the_network_bears() -> None:
    random = np.random.default_rng(0)
    edges = np.exp(random.uniform(np.log(2), np.log(200), (500, 1))) * np.ones(3)
    assert len(derive_anchors([tuple(row) for row in edges.tolist()])) == ANCHORS_MAX


def test_an_anchor_is_never_flat_however_coarse_the_grid() -> None:
    plan = replace(PLAN, spacing_mm_RAS=(5.0, 1.0, 1.0), anchors_mm=((2.0, 2.0, 7.1),))
    assert anchors_voxels(plan) == [[2, 2, 8]]


def test_the_feature_map_is_as_coarse_as_small_boxes_bear_and_no_coarser() -> None:
    """Two places along the edge of a small box: 4 voxels bear a stride of 2, 8 one of 4, and 3 none."""
    plan = replace(PLAN, strides=((1, 1, 1), (2, 2, 2), (2, 2, 1), (2, 2, 2)), channels=(8, 16, 24, 32))
    made = plan_detection(plan, [(4.0, 8.0, 3.0)])
    assert made.strides == ((2, 4, 1), (1, 1, 2), (2, 1, 1), (2, 2, 2))
    assert np.prod(made.strides, axis=0).tolist() == np.prod(plan.strides, axis=0).tolist()
    assert len(made.channels) == len(made.strides)
    assert size_divisible(made) == [8, 8, 4]


def test_a_detection_without_any_box_cannot_be_planned() -> None:
    with pytest.raises(PlanError, match="no training case has a box of nodule"):
        plan_detection(PLAN, [])


def test_a_detection_without_anchors_is_refused() -> None:
    with pytest.raises(PlanError, match="anchors_mm"):
        DetectionLearner(replace(PLAN, anchors_mm=())).network()


# Patches


def block_example(shape: tuple[int, int, int], low: list[int], high: list[int]) -> Example:
    """A bright block in a dark image, and its box."""
    image = torch.zeros((1, *shape))
    image[0, low[0] : high[0], low[1] : high[1], low[2] : high[2]] = 10.0
    return Example(
        case="block",
        image=image,
        boxes=torch.tensor([[*low, *high]], dtype=torch.float32),
        classes=torch.zeros(1, dtype=torch.int64),
    )


@pytest.mark.parametrize("shape", [(48, 40, 44), (32, 20, 40)], ids=["larger", "smaller along one axis"])
def test_a_box_moves_with_what_it_holds(shape: tuple[int, int, int]) -> None:
    bank = BoxBank(PLAN, [block_example(shape, [10, 5, 20], [16, 12, 28])], CPU)
    seen = 0
    for seed in range(24):
        images, (found,) = bank.patches([0], [seed])
        bright = (images[0, 0] > (images.amax() + images.median()) / 2).nonzero().float()
        if not len(found.boxes) or images.amax() < 4:
            continue
        seen += 1
        low, high = bright.amin(dim=0), bright.amax(dim=0) + 1
        assert torch.allclose(found.boxes[0], torch.cat([low, high]), atol=1.6), seed
    assert seen > 8


def test_mirroring_happens_along_the_named_axes_only() -> None:
    """The block lies off the middle of an image that is one patch, so that a mirrored one lies on the other side."""
    example = block_example((32, 32, 32), [4, 4, 4], [10, 10, 10])
    bank = BoxBank(replace(PLAN, mirror_axes=(0,)), [example], CPU)
    sides = [bank.patches([0], [seed])[1][0].boxes[0, :3] > 12 for seed in range(30)]
    assert torch.stack(sides).float().mean(dim=0).tolist() == [pytest.approx(0.5, abs=0.25), 0.0, 0.0]


def test_half_the_patches_of_a_large_image_hold_a_small_box() -> None:
    bank = BoxBank(SMALL, [block_example((48, 48, 48), [35, 6, 20], [38, 9, 23])], CPU)
    held = [len(bank.patches([0], [seed])[1][0].boxes) for seed in range(150)]
    assert np.mean(held) == pytest.approx(0.5 + 0.5 * (16 / 48) ** 3, abs=0.1)


def test_a_patch_is_a_function_of_its_seed_alone() -> None:
    examples = [
        block_example((40, 40, 40), [4, 4, 4], [9, 9, 9]),
        block_example((40, 40, 40), [20, 9, 9], [29, 15, 15]),
    ]
    bank = BoxBank(PLAN, examples, CPU)
    together, boxes = bank.patches([0, 1], [5, 6])
    alone, (box,) = bank.patches([1], [6])
    assert torch.equal(together[1], alone[0])
    assert torch.equal(boxes[1].boxes, box.boxes)
    assert not torch.equal(alone, bank.patches([1], [7])[0])


# The learner


@pytest.fixture(scope="module")
def learner() -> DetectionLearner:
    learner = DetectionLearner(SMALL)
    counts = (2, 0, 3)
    examples = [learner.prepare(f"c{n}", *draw_spheres(n, CUBE, count=n)) for n in counts]
    learner.load(examples, CPU)
    return learner


@pytest.fixture(scope="module")
def network(learner: DetectionLearner) -> torch.nn.Module:
    torch.manual_seed(1)
    return learner.network()


def test_the_loss_of_a_batch_is_the_mean_of_its_patches(learner: DetectionLearner, network: torch.nn.Module) -> None:
    alone = [learner.loss(network, [place], [seed]).item() for place, seed in ((0, 3), (1, 4), (2, 5))]
    assert learner.loss(network, [0, 1, 2], [3, 4, 5]).item() == pytest.approx(np.mean(alone), rel=1e-4)


def test_a_patch_with_nothing_in_it_teaches_too(learner: DetectionLearner, network: torch.nn.Module) -> None:
    loss = learner.loss(network, [1], [4])
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    assert 0 < loss.item() < 1e3
    assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0


def test_threads_that_share_a_network_get_the_losses_one_would(
    learner: DetectionLearner, network: torch.nn.Module
) -> None:
    asked = [([place], [seed]) for seed in range(2) for place in range(3)]
    alone = [learner.loss(network, *one).item() for one in asked]
    with ThreadPoolExecutor(4) as pool:
        together = [loss.item() for loss in pool.map(lambda one: learner.loss(network, *one), asked)]
    assert together == alone


def test_nothing_in_the_network_looks_at_the_batch(network: torch.nn.Module) -> None:
    kinds = {type(module).__name__ for module in network.modules()}
    assert not any("BatchNorm" in kind for kind in kinds)
    network.eval()
    image = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        both, one = network(image), network(image[:1])
    network.train()
    assert torch.allclose(both["classification"][0][:1], one["classification"][0], atol=1e-4)


def test_a_look_at_a_case_without_anything_rewards_silence(network: torch.nn.Module) -> None:
    """An untrained network gives every anchor about 0.01, below what is kept at all."""
    learner = DetectionLearner(PLAN)
    empty = learner.prepare("e", *draw_spheres(8, CUBE, count=0))
    full = learner.prepare("f", *draw_spheres(9, CUBE, count=2))
    network.eval()
    assert learner.figures(network, empty) == {"ap/nodule": 1.0}
    assert learner.figures(network, full) == {"ap/nodule": 0.0}
    network.train()
