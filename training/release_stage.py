"""How far a model version is released."""

from enum import StrEnum


class Stage(StrEnum):
    """Kept and not sent, sent for a share of the studies, or for all others."""

    SHADOW = "shadow"
    CANARY = "canary"
    LIVE = "live"
