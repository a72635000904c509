"""Cases of a store that are settled by agreement or adjudication, for tests of snapshots."""

from apps.settings import Site
from labeling_protocols.label import Label
from labeling_protocols.records import Account, Case, Part
from labeling_protocols.settlement import adjudicate, settle
from labeling_protocols.store import Store
from labeling_protocols.strata import Strata
from labeling_protocols.worklist import reassign
from tests.conftest import image_of, label_of

NAME = "hippocampus"
SIEMENS = Strata(maker="Siemens", model="Skyra", slice_thickness_mm=2.5, sex="F", age_band="40-49", site="north")


def read_case(
    store: Store, readers: tuple[Account, Account], number: int, *, patient: str = "", apart: int = 0
) -> Case:
    """A case read by both, the second `apart` voxels from the first, and judged; from 3 on that is a dispute."""
    patient = patient or f"P{number}"
    volume, strata = image_of(number), SIEMENS if number % 2 else Strata(maker="GE")
    case, _ = store.add_case(protocol=NAME, patient=patient, volume=volume, modality="MR", strata=strata)
    for reader, shift in zip(readers, (0, apart), strict=True):
        reassign(store, case.id, from_reader=None, to_reader=reader.id, actor="command line")
        store.save_read(case_id=case.id, reader=reader.id, label=Label.of(label_of(shift)))
    settle(store, case.id)
    return case


def adjudicated_case(store: Store, site: Site, readers: tuple[Account, Account], judge: Account, number: int) -> Case:
    """A dispute that was settled by taking the second reader's label."""
    case = read_case(store, readers, number, apart=3)
    decide(store, site, judge, case, readers[1])
    return case


def decide(store: Store, site: Site, judge: Account, case: Case, reader: Account) -> None:
    adjudicate(
        store,
        case_id=case.id,
        adjudicator=judge.id,
        parts=[Part(source=f"reader:{reader.id}")],
        rationale="plain in the next slice",
        signing_key=site.signing_key,
    )
