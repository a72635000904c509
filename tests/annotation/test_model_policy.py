"""Who may use which model: what answers clicks, scribbles or uploaded images is a proposal as prelabels are."""

from typing import Any

import pytest
import requests

from labeling_protocols.protocol import PrelabelPolicy, Protocol
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.volumes import volume_bytes
from tests.annotation.released import case_on, interactive_parts, release, segmentation_parts
from tests.annotation.served import Served
from tests.training.drawn import STRAIGHT, draw


def statuses(served: Served, account: Account, protocol: Protocol, case: Case) -> dict[str, int]:
    """What each model answers for the case, and for an image that is none."""
    session = served.session(account)
    files: Any = {"file": ("image.nii.gz", volume_bytes(draw(3)[0], ".nii.gz"))}
    found = {}
    for model in (protocol.name, f"{protocol.name}-interactive", "Histogram+GraphCut"):
        url = f"{served.url}/infer/{requests.utils.quote(model)}"
        found[model.removeprefix(protocol.name)] = session.post(f"{url}?image={case.id}").status_code
        found[f"{model.removeprefix(protocol.name)} uploaded"] = session.post(url, files=files).status_code
    return found


@pytest.mark.parametrize(
    ("policy", "before", "after", "uploaded"),
    [
        (PrelabelPolicy.ALWAYS, 200, 200, 200),
        (PrelabelPolicy.AFTER_FIRST_PASS, 403, 200, 403),
        (PrelabelPolicy.NEVER, 403, 403, 403),
    ],
)
def test_readers_are_shown_answers_of_any_model_as_they_are_prelabels(
    served: Served, policy: PrelabelPolicy, before: int, after: int, uploaded: int
) -> None:
    protocol = served.protocol(prelabels=policy)
    release(served, protocol, "segmentation", segmentation_parts())
    release(served, protocol, "interactive", interactive_parts())
    case, reader = case_on(served, protocol, STRAIGHT), served.account()
    served.seat(reader, case)
    for status in (before, after):
        found = statuses(served, reader, protocol, case)
        assert {found[""], found["-interactive"]} == {status}
        assert found["Histogram+GraphCut"] == (422 if status == 200 else 403)  # 422: it has no scribbles to go by
        assert {found[" uploaded"], found["-interactive uploaded"]} == {uploaded}
        answer = served.put_label(reader, case.id, volume_bytes(draw(3)[1], ".nrrd"))
        assert answer.status_code == 200, answer.text
    offered = served.client(reader).info()["models"]
    names = {protocol.name, f"{protocol.name}-interactive"}
    assert (names <= set(offered)) == (policy is not PrelabelPolicy.NEVER)
    assert (not names & set(offered)) == (policy is PrelabelPolicy.NEVER)
    engineer = served.account(Role.ENGINEER)
    assert names <= set(served.client(engineer).info()["models"])
    assert statuses(served, engineer, protocol, case)["-interactive"] == 200


def test_a_model_of_no_protocol_shows_no_reader_what_a_protocol_withholds(served: Served) -> None:
    """Otherwise a case's image, uploaded by hand, would be answered."""
    served.protocol(prelabels=PrelabelPolicy.NEVER)
    found = statuses(served, served.account(), served.protocol(), served.cases(served.protocol())[0])
    assert found["Histogram+GraphCut uploaded"] == 403
