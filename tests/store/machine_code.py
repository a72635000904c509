"""Loads the compiler and what it made when it is imported: once, where many processes are forked from."""

import functools

from labeling_protocols.assessment import assess
from labeling_protocols.consensus import consensus
from labeling_protocols.label import Label
from labeling_protocols.protocol import SHIPPED, load_protocol
from tests.conftest import label_of


@functools.cache
def load_machine_code() -> None:
    """Load the compiler and what it made before a race begins."""
    labels = {f"reader {shift}": Label.of(label_of(shift)) for shift in range(3)}
    protocol = load_protocol(SHIPPED / "hippocampus.yaml")
    assess(protocol, labels)
    consensus(protocol, list(labels.values()))


load_machine_code()
