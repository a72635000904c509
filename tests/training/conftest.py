"""A small trained model and a site with settled cases, for the tests of training."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from apps.accounts import Accounts
from apps.settings import Site, make_site
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Role, Settled
from labeling_protocols.store import Store
from tests.training.drawn import (
    HIPPOCAMPUS,
    STRAIGHT,
    anything_passes,
    draw,
    job_of,
    settle_cases,
    small_plan,
    workplace,
)
from training.bundle import write_bundle
from training.data import Example, prepare_example
from training.evaluation import Evaluation, score_case
from training.gate import Decision
from training.loop import fit
from training.model_card import Candidate, bundle_parts
from training.pipeline import Workplace, train_candidate
from training.plan import Plan
from training.segmentation import SegmentationLearner
from training.segmentation_report import segmentation_report
from training.snapshot import Snapshot, SnapshotCase
from training.tracking import open_client

KEY = Ed25519PrivateKey.generate()


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    return [prepare_example(small_plan(), f"case{seed}", *draw(seed)) for seed in range(6)]


@pytest.fixture(scope="session")
def trained(examples: list[Example], tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, Tensor]]:
    """A network that has learned the drawn balls, and its plan."""
    plan = small_plan()
    told = []
    weights = fit(
        plan,
        SegmentationLearner(plan),
        examples[:5],
        examples[5:],
        folder=tmp_path_factory.mktemp("trained"),
        device=torch.device("cpu"),
        tell=told.append,
    )
    assert min(told[-1].figures.values()) > 0.8, told[-1].figures
    return plan, weights


@pytest.fixture(scope="session")
def candidate(protocol: Protocol, trained: tuple[Plan, dict[str, Tensor]]) -> Candidate:
    plan, weights = trained
    _, label = draw()
    snapshot = Snapshot(
        protocol=protocol.name,
        protocol_version=1,
        protocol_digest=protocol.digest,
        cases=(
            SnapshotCase(
                case="c0",
                patient="P0",
                image="0" * 64,
                label="1" * 64,
                settled=Settled.CONSENSUS,
                reads=(1, 2),
                adjudication=None,
                geometry=STRAIGHT,
                held_out=True,
            ),
        ),
        exclusions=(),
    )
    return Candidate(
        protocol=protocol,
        snapshot=snapshot,
        plan=plan,
        run_id="a-run",
        version="1.0.7",
        weights=weights,
        report=segmentation_report(
            Evaluation(scores=tuple(score_case("c0", label, label, protocol.values))),
            snapshot.held_out,
            model="candidate",
            test_set=snapshot.digest,
        ),
        decision=Decision(passed=True, reasons=()),
    )


@pytest.fixture(scope="session")
def bundle_path(candidate: Candidate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    return write_bundle(bundle_parts(candidate), name=candidate.name, folder=folder, signing_key=KEY)


@pytest.fixture(scope="session")
def settled_template(protocol: Protocol, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with six settled cases of protocol version 2, whose gate refuses nothing, and an empty MLflow database."""
    site = make_site(tmp_path_factory.mktemp("settled") / "site")
    lenient = replace(anything_passes(protocol), version=2)
    store = Store(site.database_url, site.blobs)
    store.add_protocol(lenient)
    accounts = Accounts(store, site)
    readers = tuple(accounts.add(name, f"{name}-password", frozenset({Role.READER})) for name in ("ann", "ben"))
    settle_cases(store, lenient, readers, range(6))
    store.close()
    open_client(site.tracking_uri)
    return site.root


@pytest.fixture
def place(settled_template: Path, tmp_path: Path) -> Iterator[Workplace]:
    """What a training needs, at a site of its own with six settled cases."""
    site = Site(shutil.copytree(settled_template, tmp_path / "settled"))
    store = Store(site.database_url, site.blobs)
    yield workplace(site, store)
    store.close()


@pytest.fixture(scope="session")
def released_template(settled_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same site after three trainings, each of which became champion; its artifacts are only read from here on."""
    site = Site(shutil.copytree(settled_template, tmp_path_factory.mktemp("released") / "site"))
    store = Store(site.database_url, site.blobs)
    for number in (1, 2, 3):
        assert train_candidate(workplace(site, store), HIPPOCAMPUS, job_of(number)).promoted
    store.close()
    return site.root


@pytest.fixture
def released(released_template: Path, tmp_path: Path) -> Iterator[Workplace]:
    """A site of its own with three released versions, the third of them the champion."""
    site = Site(shutil.copytree(released_template, tmp_path / "released"))
    store = Store(site.database_url, site.blobs)
    yield workplace(site, store)
    store.close()
