"""nnInteractive by way of a stand-in for its package, which is not installed here: what it is given, and its answer."""

import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from apps.annotation.nninteractive import NnInteractiveInfer
from apps.annotation.served_model import Asked, case_asked
from labeling_protocols.protocol import Protocol
from labeling_protocols.store import Store, UnknownError
from tests.conftest import OBLIQUE, image_of
from training.clicks import ClickError
from training.prepared_images import PreparedImages


class Session:
    """The package's interface (versions 1 and 2), marking each voxel that was pointed at and each box."""

    made: ClassVar["list[Session]"] = []

    def __init__(self, device: torch.device, use_torch_compile: bool = False, torch_n_threads: int = 8) -> None:
        self.supported_interactions = {"points": True, "bbox2d": True, "bbox3d": False}
        self.threads = torch_n_threads
        self.images: list[tuple[int, ...]] = []
        self.predicted = 0
        Session.made.append(self)

    def initialize_from_trained_model_folder(self, model_training_output_dir: str) -> None:
        self.folder = model_training_output_dir

    def set_image(self, image: np.ndarray[Any, Any]) -> None:
        self.images.append(image.shape)

    def set_target_buffer(self, target: torch.Tensor) -> None:
        self.target_buffer = target

    def reset_interactions(self) -> None:
        self.target_buffer.zero_()

    def add_point_interaction(
        self, coordinates: tuple[int, ...], include_interaction: bool, run_prediction: bool = True
    ) -> None:
        self.target_buffer[coordinates] = int(include_interaction)
        self.predicted += run_prediction

    def add_bbox_interaction(
        self, bbox_coords: list[list[int]], include_interaction: bool, run_prediction: bool = True
    ) -> None:
        assert any(last - first == 1 for first, last in bbox_coords)  # it knows flat boxes alone
        self.target_buffer[tuple(slice(first, last) for first, last in bbox_coords)] = int(include_interaction)
        self.predicted += run_prediction


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    Session.made = []
    for name in ("nnInteractive", "nnInteractive.inference", "nnInteractive.inference.inference_session"):
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []  # type: ignore[attr-defined]  # a package
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["nnInteractive.inference.inference_session"].nnInteractiveInferenceSession = Session  # type: ignore[attr-defined]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "nninteractive" / "nnInteractive_v1.0"
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text("{}")
    return folder


def model(store: Store, tmp_path: Path) -> NnInteractiveInfer:
    return NnInteractiveInfer(tmp_path / "nninteractive", store, PreparedImages(), "cpu")


def asked_of(store: Store, protocol: Protocol, **params: Any) -> Asked:
    case, _ = store.add_case(protocol=protocol.name, patient="P1", volume=image_of(1), modality="MR")
    return case_asked(store, PreparedImages(), case, params)


@pytest.mark.usefixtures("installed")
def test_clicks_are_given_in_the_order_of_the_image_s_axes(
    store: Store, protocol: Protocol, weights: Path, tmp_path: Path
) -> None:
    ours = model(store, tmp_path)
    assert ours.is_valid()
    asked = asked_of(store, protocol, label="posterior", foreground=[[1, 2, 3], [4, 5, 0]], background=[[7, 9, 5]])
    assert not ours.is_quick(asked)
    proposal = ours.propose(asked)
    assert proposal.label is not None
    assert np.argwhere(proposal.label.array_ZYX == 2).tolist() == [[0, 5, 4], [3, 2, 1]]
    assert proposal.label.array_ZYX.sum() == 4
    assert proposal.params["label_names"] == {"posterior": 2}
    assert proposal.model == "nninteractive nnInteractive_v1.0"
    [session] = Session.made
    assert (session.folder, session.threads) == (str(weights), torch.get_num_threads())
    assert (session.images, session.predicted) == ([(1, *OBLIQUE.shape_ZYX)], 1)
    assert ours.is_quick(asked)
    again = ours.propose(Asked(load=asked.load, digest=asked.digest, params={"foreground": [[0, 0, 0]]}))
    assert again.label is not None
    assert np.argwhere(again.label.array_ZYX).tolist() == [[0, 0, 0]]
    assert (len(session.images), session.predicted) == (1, 2)


@pytest.mark.usefixtures("installed", "weights")
def test_a_box_becomes_its_middle_slice_where_the_model_knows_flat_ones_alone(
    store: Store, protocol: Protocol, tmp_path: Path
) -> None:
    proposal = model(store, tmp_path).propose(asked_of(store, protocol, label="anterior", roi=[5, 2, 1, 3, 0, 4]))
    assert proposal.label is not None
    drawn = np.zeros(OBLIQUE.shape_ZYX, bool)
    drawn[2, 1:4, 2:6] = True
    np.testing.assert_array_equal(proposal.label.array_ZYX, drawn)
    assert Session.made[0].predicted == 1


@pytest.mark.usefixtures("installed", "weights")
@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "there is neither"),
        ({"foreground": [[1, 2, 99]]}, "expected a voxel"),
        ({"foreground": [[1, 2]]}, "expected a voxel"),
    ],
)
def test_nothing_is_outlined_without_a_click_in_the_image(
    store: Store, protocol: Protocol, tmp_path: Path, params: dict[str, Any], said: str
) -> None:
    with pytest.raises(ClickError, match=said):
        model(store, tmp_path).propose(asked_of(store, protocol, **params))


@pytest.mark.usefixtures("installed")
def test_the_licence_of_the_weights_is_told(store: Store, weights: Path, tmp_path: Path) -> None:
    assert "BY-NC-SA 4.0" in model(store, tmp_path).description
    (weights / "LICENSE").write_text("\nOur own weights, for research.\nMore.")
    assert model(store, tmp_path).description.endswith("Our own weights, for research.")


@pytest.mark.parametrize("there", ["nothing", "weights"])
def test_without_package_or_weights_it_is_not_offered_and_says_why(
    store: Store, protocol: Protocol, tmp_path: Path, request: pytest.FixtureRequest, there: str
) -> None:
    if there == "weights":
        request.getfixturevalue("weights")
    ours = model(store, tmp_path)
    assert not ours.is_valid()
    with pytest.raises(UnknownError, match=r"pip install nninteractive.*models/nninteractive"):
        ours.propose(asked_of(store, protocol, foreground=[[1, 2, 3]]))


@pytest.mark.usefixtures("installed")
def test_without_weights_the_package_alone_is_not_offered(store: Store, tmp_path: Path) -> None:
    assert not model(store, tmp_path).is_valid()
