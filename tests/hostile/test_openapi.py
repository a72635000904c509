"""schemathesis sends what the OpenAPI document allows, and what it does not, to every route, as everybody."""

import os
from collections import Counter
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode

from tests.hostile.conftest import Besieged

# A fixed sequence, so that a run is like the last; `OVERREAD_HOSTILE_EXAMPLES` sends more, and others each time.
MORE = int(os.environ.get("OVERREAD_HOSTILE_EXAMPLES", "0"))
EXAMPLES = 4
NAMES = frozenset({"image", "label", "case", "id"})


@pytest.fixture(scope="module")
def document(besieged: Besieged) -> Any:
    answer = requests.get(f"{besieged.served.url}/openapi.json", timeout=10)
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def test_the_document_is_for_everybody_and_names_every_route_of_a_viewer(document: Any) -> None:
    assert {"/info/", "/datastore/label", "/infer/{model}", "/worklist/skip", "/datastore/updatelabelinfo"} <= set(
        document["paths"]
    )


def test_nothing_the_document_allows_or_forbids_is_too_much(besieged: Besieged, document: Any) -> None:
    schema = schemathesis.openapi.from_dict(document)
    sessions = {who: requests.Session() for who in besieged.people}
    statuses: Counter[int] = Counter()
    for result in schema.get_all_operations():
        operation = result.ok()
        requests_of = st.one_of(
            operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
            operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
        )

        @settings(
            max_examples=MORE or EXAMPLES,
            derandomize=not MORE,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=requests_of, known=st.sampled_from([None, *besieged.cases]))
        def send(case: Any, known: Any) -> None:
            if known is not None and isinstance(case.query, dict):
                case.query.update({name: known.id for name in NAMES & set(case.query)})
            for who, session in sessions.items():
                answer = case.call(
                    base_url=besieged.served.url,
                    session=session,
                    headers=besieged.headers(who),
                    allow_redirects=False,
                )
                besieged.check(answer)
                statuses[answer.status_code] += 1

        send()
    assert {200, 401, 403, 404, 422} <= set(statuses), statuses
    assert besieged.outside() == besieged.before
