"""Leads' figures: charts with their numbers and data, by reader for administrators alone, and nothing for who reads."""

import csv
import io
from dataclasses import dataclass, replace
from xml.etree import ElementTree

import pytest
import requests
from PIL import Image
from playwright.sync_api import Page

from labeling_protocols.adjudications import adjudicate
from labeling_protocols.label import Label
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import AnswerAgreement, BooleanQuestion, Calibration
from labeling_protocols.records import Account, Part, Provenance, Role
from labeling_protocols.settlement import settle
from tests.annotation.served import Served
from tests.conftest import label_of
from tests.review.conftest import sign_in
from tests.review.test_work_page import signed_in

TOPICS = ("agreement", "disputes", "calibration", "time", "reliability")
SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True, kw_only=True)
class Study:
    """Four cases by two readers: two agreed, one settled for the first reader, one calibration case."""

    protocol: Protocol
    readers: tuple[Account, Account]


@pytest.fixture(scope="module")
def study(served: Served) -> Study:
    artefact = BooleanQuestion(
        kind="boolean", name="artefact", title="Is there an artefact?", agreement=AnswerAgreement.ANY
    )
    protocol = served.protocol(title="Hippocampi of a study", calibration=Calibration(every=4), questions=(artefact,))
    readers = (served.account(), served.account(name="=evil"))
    judge = served.account(Role.ADJUDICATOR)
    known, *cases = served.cases(protocol, 4)
    served.store.set_calibration(known.id, Label.of(label_of()))
    for number, case in enumerate((*cases, known)):
        for reader in readers:
            served.seat(reader, case)
            shift = 3 if (number, reader) == (2, readers[1]) else 0
            label = replace(Label.of(label_of(shift)), answers={"artefact": number == 0 and reader is readers[0]})
            provenance = Provenance(seconds=60.0 if reader is readers[0] else 120.0)
            served.store.save_read(case_id=case.id, reader=reader.id, label=label, provenance=provenance)
        settle(served.store, case.id)
    adjudicate(
        served.store,
        case_id=cases[2].id,
        adjudicator=judge.id,
        parts=[Part(source=f"reader:{readers[0].id}")],
        rationale="The first follows the boundary.",
        signing_key=served.site.signing_key,
    )
    return Study(protocol=protocol, readers=readers)


@pytest.fixture(scope="module")
def boss(served: Served) -> Account:
    return served.account(Role.ADMINISTRATOR)


@pytest.fixture(scope="module")
def lead(served: Served) -> Account:
    return served.account(Role.ENGINEER)


def ask(served: Served, account: Account, path: str) -> requests.Response:
    return signed_in(served, account).get(f"{served.url}/review/{path}", headers={"Accept": "text/html"})


def rows(answer: requests.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_an_administrator_sees_each_reader_against_the_truth(served: Served, study: Study, boss: Account) -> None:
    """The second reader's boxes of 4 voxels lie 3 apart from the truth in one case of three: (1 + 1 + 0.25) / 3."""
    text = ask(served, boss, f"figures/agreement?protocol={study.protocol.name}").text
    assert "being worked out" not in text
    assert all(reader.name in text for reader in study.readers)
    found = rows(ask(served, boss, f"charts/agreement.csv?protocol={study.protocol.name}"))
    assert len(found) == 2 * 2 * 3
    last = [row for row in found if row["reader"] == f"'{study.readers[1].name}" and row["structure"] == "anterior"][-1]
    assert (last["score"], last["rolling_mean"], last["scores_in_mean"]) == ("0.25", "0.75", "3")
    assert {row["rolling_mean"] for row in found if row["reader"] == study.readers[0].name} == {"1.0"}
    of_one = rows(
        ask(served, boss, f"charts/agreement.csv?protocol={study.protocol.name}&reader={study.readers[0].id}")
    )
    assert {row["reader"] for row in of_one} == {study.readers[0].name}


@pytest.mark.parametrize("chart", [*TOPICS, "reads"])
def test_every_chart_is_a_picture_with_its_numbers_in_words(
    served: Served, study: Study, boss: Account, chart: str
) -> None:
    asked = f"charts/{chart}.FORM?protocol={study.protocol.name}&structure=anterior&paper=1"
    drawing = ask(served, boss, asked.replace("FORM", "svg"))
    assert drawing.headers["content-type"] == "image/svg+xml"
    assert "attachment" in drawing.headers["content-disposition"]
    words = " ".join("".join(text.itertext()) for text in ElementTree.fromstring(drawing.text).iter(f"{SVG}text"))
    assert "n = " in words
    assert ("too few to rely on" in words) == (chart not in ("disputes", "reads"))
    picture = Image.open(io.BytesIO(ask(served, boss, asked.replace("FORM", "png")).content)).convert("RGB")
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert rows(ask(served, boss, asked.replace("FORM", "csv")))
    assert drawing.text == ask(served, boss, asked.replace("FORM", "svg")).text


def test_times_disputes_calibration_and_reliability_are_told(served: Served, study: Study, boss: Account) -> None:
    of = f"?protocol={study.protocol.name}"
    times = {row["reader"]: row for row in rows(ask(served, boss, f"charts/time.csv{of}"))}
    assert times[study.readers[0].name]["median_seconds"] == "60.0"
    assert times[study.readers[0].name]["cases"] == "4"
    (week,) = rows(ask(served, boss, f"charts/disputes.csv{of}"))
    assert (week["raised"], week["settled by a reader's outline"]) == ("1", "1")
    assert {row["score"] for row in rows(ask(served, boss, f"charts/calibration.csv{of}"))} <= {"1.0"}
    calibration = ask(served, boss, f"figures/calibration{of}").text
    assert "1 of 1" in calibration
    reliability = ask(served, boss, f"figures/reliability{of}").text
    assert "3 cases that two readers or more have read" in reliability
    assert "Is there an artefact?" in reliability
    volumes = rows(ask(served, boss, f"charts/reliability.csv{of}&structure=anterior"))
    assert {row["difference_ml"] for row in volumes} == {"0.0"}
    assert len(volumes) == 3


@pytest.mark.parametrize("role", [Role.ADJUDICATOR, Role.ENGINEER])
def test_other_leads_see_all_readers_together_and_neither_names_nor_cases(
    served: Served, study: Study, role: Role
) -> None:
    account = served.account(role)
    of = f"?protocol={study.protocol.name}&reader={study.readers[0].id}&structure=anterior"
    cases = [case.id for case in served.store.cases(study.protocol.name)]
    answers = [ask(served, account, f"figures/{topic}{of}") for topic in TOPICS]
    answers += [ask(served, account, f"charts/{chart}.{form}{of}") for chart in TOPICS for form in ("csv", "svg")]
    answers.append(ask(served, account, "progress"))
    for answer in answers:
        assert answer.status_code == (403 if "/charts/reliability" in answer.url else 200)
        for secret in (*cases, *(reader.name for reader in study.readers), *(reader.id for reader in study.readers)):
            assert secret not in answer.text.replace(answer.url, ""), answer.url
    pooled = rows(ask(served, account, f"charts/agreement.csv{of}"))
    assert [row["score"] for row in pooled if row["structure"] == "anterior"] == ["1.0", "1.0", "0.625"]
    assert {row["reader"] for row in pooled} == {"all readers"}


@pytest.mark.parametrize("role", [Role.ADJUDICATOR, Role.ENGINEER, Role.ADMINISTRATOR])
def test_a_lead_who_reads_cases_is_told_of_cases_and_reads_and_of_nothing_that_came_of_them(
    served: Served, study: Study, role: Role
) -> None:
    both = served.account(Role.READER, role)
    page = ask(served, both, "progress")
    section = page.text[page.text.index(study.protocol.title) :].split("</section>")[0]
    assert "<strong>3</strong>cases" in section
    assert "of 6 reads" in section
    for word in ("dispute", "truth", "calibration", "Reader", "figures/", "charts/"):
        assert word not in section
    of = f"?protocol={study.protocol.name}&structure=anterior"
    for path in (*(f"figures/{topic}{of}" for topic in TOPICS), *(f"charts/{chart}.csv{of}" for chart in TOPICS)):
        answer = ask(served, both, path)
        assert answer.status_code == 403, path
        assert "you read cases yourself" in answer.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("figures/nothing", 404),
        ("charts/nothing.svg", 404),
        ("charts/time.pdf?protocol=hippocampus", 404),
        ("charts/time.svg", 404),
        ("charts/time.svg?protocol=nothing", 404),
        ("charts/reliability.svg?protocol=hippocampus&structure=nothing", 404),
        ("figures/time?protocol=..%2F", 422),
        ("figures/time?reader=%00", 422),
        ("charts/agreement.svg?protocol=hippocampus", 200),
        ("figures/agreement?protocol=hippocampus", 200),
    ],
)
def test_what_is_not_there_is_said_and_what_is_empty_is_empty(
    served: Served, boss: Account, path: str, status: int
) -> None:
    assert ask(served, boss, path).status_code == status


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (640, 400)])
def test_figures_fit_the_window_and_every_chart_is_seen(
    served: Served, study: Study, boss: Account, page: Page, width: int, height: int
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    sign_in(page, boss, "/review/progress")
    page.get_by_label("Figures").get_by_role("link", name="Against truth").click()
    page.wait_for_url("**/figures/agreement*")
    for topic in TOPICS:
        page.goto(f"/review/figures/{topic}?protocol={study.protocol.name}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, topic
        charts = page.locator(".chart img")
        assert charts.count() == (2 if topic == "reliability" else 1)
        for chart in charts.all():
            chart.scroll_into_view_if_needed()
            page.wait_for_function("(img) => img.complete && img.naturalWidth > 0", arg=chart.element_handle())
            assert chart.get_attribute("alt")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").first.click()
    assert download.value.suggested_filename == f"{study.protocol.name}-reliability-anterior.csv"
