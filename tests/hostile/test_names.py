"""Names, tags and ids that try to get out: nothing is written beside the site, nothing beside it is read, no 5xx."""

import json
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labeling_protocols.volumes import volume_bytes
from tests.conftest import label_of
from tests.hostile.conftest import Besieged
from tests.hostile.test_openapi import MORE

# Each goes where a viewer would put an id, a tag, a file's name or a model's.
STEPS = ("../", "..\\", "..%2f", "%2e%2e/", "..%252f", "....//", "/", "%00", "\0", "%0d%0aX-Evil: 1", "\r\n", "~/", "")
TARGETS = ("canary.txt", "canary.nrrd", "labels/final/canary", "site.txt", "etc/passwd", "overread.db", "keys/site.key")
PLACES = ("/proc/self/environ", "file:///etc/passwd", "http://127.0.0.1:1/", "s3://x/y", "C:\\boot.ini", "\\\\host\\x")
escapes = st.builds(
    lambda step, times, target, suffix: step * times + target + suffix,
    st.sampled_from(STEPS),
    st.integers(1, 12),
    st.sampled_from(TARGETS),
    st.sampled_from(("", ".nrrd", "\0.nrrd", "%00.nrrd", "/", ";", "?x=1", "#")),
)
words = st.one_of(
    escapes,
    st.sampled_from(PLACES),
    st.text(max_size=40),
    st.sampled_from(("version_1", "version_0", "version_99999999999", "original", "final", "a" * 3000, "é" * 300)),
    st.sampled_from(("'; DROP TABLE reads; --", "{{7*7}}", "${jndi:ldap://x}", "<script>", "\u202e", "＃")),
)
LABEL = volume_bytes(label_of(2), ".nrrd")
PARAMS = json.dumps({"label_info": [{"name": "anterior", "idx": 1}, {"name": "posterior", "idx": 2}]})


def ask(besieged: Besieged, session: requests.Session, method: str, path: str, **what: Any) -> None:
    answer = session.request(method, besieged.served.url + path, timeout=20, allow_redirects=False, **what)
    besieged.check(answer)
    assert "x-evil" not in answer.headers


@settings(
    max_examples=MORE or 25,
    derandomize=not MORE,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(name=words)
def test_a_name_gets_nobody_out_of_the_site(besieged: Besieged, name: str) -> None:
    case = besieged.cases[0].id
    session = requests.Session()
    session.headers.update(besieged.headers("reader"))
    form = {"data": {"params": PARAMS}}
    for method, path, what in (
        ("GET", "/datastore/image", {"params": {"image": name}}),
        ("HEAD", "/datastore/image", {"params": {"image": case, "check_sum": name}}),
        ("GET", "/datastore/image/info", {"params": {"image": name}}),
        ("GET", "/datastore/label", {"params": {"label": name, "tag": "final"}}),
        ("GET", "/datastore/label", {"params": {"label": case, "tag": name}}),
        ("GET", "/datastore/label/info", {"params": {"label": case, "tag": name}}),
        ("PUT", "/datastore/label", {"params": {"image": name}, "files": {"label": ("l.nrrd", LABEL)}, **form}),
        (
            "PUT",
            "/datastore/label",
            {"params": {"image": case, "tag": name}, "files": {"label": ("l.nrrd", LABEL)}, **form},
        ),
        ("PUT", "/datastore/label", {"params": {"image": case}, "files": {"label": (named(name), LABEL)}, **form}),
        ("POST", "/infer/hippocampus", {"params": {"image": name}}),
        ("POST", "/infer/hippocampus", {"params": {"session_id": name}}),
        ("POST", "/infer/hippocampus", {"files": {"file": (named(name), LABEL)}}),
        ("PUT", "/session/", {"files": {"file": (named(name), LABEL)}}),
        ("POST", "/activelearning/worklist", {"json": {"protocol": name, "strategy": name, "client_id": name}}),
        ("POST", "/worklist/skip", {"params": {"case": name}, "json": {"reason": name}}),
        ("POST", "/auth/token", {"data": {"username": name, "password": "x"}}),
    ):
        ask(besieged, session, method, path, **what)
    for path in ("/session/", "/ohif/", "/infer/", "/activelearning/", "/dicomweb/studies/", "/review/static/", "/u/"):
        ask(besieged, session, "GET", path + name.replace("\r", "%0d").replace("\n", "%0a"))
    session.headers.update(besieged.headers("adjudicator"))
    said = {"data": {"params": json.dumps({"segmentationMeta": {"status": name, "level": name, "comment": name}})}}
    ask(besieged, session, "PUT", "/datastore/updatelabelinfo", params={"label": case, "tag": "version_1"}, **said)
    ask(besieged, session, "PUT", "/datastore/updatelabelinfo", params={"label": name, "tag": name}, **said)
    ask(besieged, session, "GET", f"/review/api/disputes/{name.replace('?', '')}")
    assert besieged.outside() == besieged.before


def named(name: str) -> str:
    """A file's name as a client can send it: requests encodes what is not ASCII, and refuses nothing else."""
    return f"{name}.nrrd".replace("\r", "").replace("\n", "").replace("\0", "")


@pytest.mark.parametrize("key", ["protocol", "strategy", "client_id"])
def test_half_a_surrogate_pair_is_refused_in_words(besieged: Besieged, key: str) -> None:
    body = json.dumps({key: "\ud800"})
    headers = {**besieged.headers("reader"), "content-type": "application/json"}
    answer = requests.post(f"{besieged.served.url}/activelearning/worklist", data=body, headers=headers, timeout=10)
    besieged.check(answer)


@pytest.mark.parametrize(
    "body", ["[" * 200_000, '{"a":' * 100_000, '{"protocol": 1e400}', "1" * 10_000, '{"x": "' + "\\u0000" * 9]
)
def test_json_that_is_too_deep_or_too_long_is_refused(besieged: Besieged, body: str) -> None:
    headers = {**besieged.headers("reader"), "content-type": "application/json"}
    for path in ("/activelearning/worklist", f"/worklist/skip?case={besieged.cases[0].id}"):
        answer = requests.post(besieged.served.url + path, data=body, headers=headers, timeout=10)
        besieged.check(answer)
        assert 400 <= answer.status_code < 500 or "protocol" in body


def test_a_header_of_a_megabyte_or_a_path_of_a_hundred_thousand_is_no_fault_of_the_server(besieged: Besieged) -> None:
    url = besieged.served.url
    for path, headers in (
        ("/info/", {"Authorization": "Bearer " + "x" * 30_000}),
        ("/u/" + "x" * 30_000 + "/info/", {}),
    ):
        answer = requests.get(url + path, headers=headers, timeout=10)
        besieged.check(answer)
        assert answer.status_code in (400, 401, 414, 431)
