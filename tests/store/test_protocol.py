"""A bad protocol file is refused with its line; a good one survives the database."""

from pathlib import Path

import pytest

from labeling_protocols.protocol import SHIPPED, Protocol, ProtocolError, load_protocol

SHIPPED_TEXT = (SHIPPED / "hippocampus.yaml").read_text()


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_protocol_loads_and_survives_as_json(path: Path) -> None:
    protocol = load_protocol(path)
    assert protocol.name == path.stem
    assert Protocol.from_json(protocol.as_json()) == protocol


@pytest.mark.parametrize(
    ("old", "new", "line_of", "words"),
    [
        ("value: 2", "value: 1", "structures:", "every value must be used once, found 1 twice"),
        ("readers_per_case: 2", "readers_per_case: two", "readers_per_case:", "valid integer"),
        ("rule: majority", "rule: vote", "consensus:", "'majority', found 'vote'"),
        ("version: 1", "version: 1\nversion: 2", "version: 2", "a second time"),
        ("posterior: 0.65", "post: 0.65", "dice_min: {anterior: 0.65", "expected one entry for each of"),
        ("title: Posterior", "titel: Posterior", "titel:", "Unexpected keyword"),
        (
            "dice_min: 0.75, hd95_mm_max: 4.0",
            "dice_min: 1.5, hd95_mm_max: 4.0",
            "anterior: {dice_min",
            "less than or equal to 1",
        ),
        ("gate:", "gate: [", "  dice_min: {anterior: 0.65", "not valid YAML"),
    ],
)
def test_a_bad_protocol_is_refused_with_file_line_and_what_was_expected(
    tmp_path: Path, old: str, new: str, line_of: str, words: str
) -> None:
    path = tmp_path / "bad.yaml"
    text = SHIPPED_TEXT.replace(old, new, 1)
    path.write_text(text)
    line = next(number for number, content in enumerate(text.splitlines(), 1) if line_of in content)
    with pytest.raises(ProtocolError) as refusal:
        load_protocol(path)
    assert f"bad.yaml, line {line}:" in str(refusal.value)
    assert words in str(refusal.value)


def test_a_file_that_is_no_protocol_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n- 2\n")
    with pytest.raises(ProtocolError, match="expected a protocol"):
        load_protocol(path)
