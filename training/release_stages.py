"""Versions that are tried beside the champion: as a canary on a share of the studies, as a shadow on all, unsent.

The champion itself moves by `Registry.promote` alone. Whatever is changed here holds from the next study on.
"""

import hashlib
from dataclasses import dataclass

from training.model_versions import SEGMENTATION, ModelVersion
from training.registry import Registry
from training.release import ReleaseError
from training.release_stage import Stage
from training.versioning import model_name

SHARE = 0.1  # of the studies that a canary reads, where nobody says it
_SHARE_TAG = "canary_share"  # of the registered model


@dataclass(frozen=True, kw_only=True)
class Released:
    """The versions of a model that read studies now; `canary_share` is the share of them that the canary reads."""

    live: ModelVersion | None
    canary: ModelVersion | None = None
    canary_share: float = 0.0
    shadow: ModelVersion | None = None

    def readers_of(self, study: str) -> list[tuple[Stage, ModelVersion]]:
        """Who reads a study: the champion or the canary, and the shadow beside them; a study's series go one way."""
        readers = []
        drawn = int.from_bytes(hashlib.sha256(study.encode()).digest()[:8], "big") / 2**64
        if self.canary is not None and drawn < self.canary_share:
            readers.append((Stage.CANARY, self.canary))
        elif self.live is not None:
            readers.append((Stage.LIVE, self.live))
        if self.shadow is not None:
            readers.append((Stage.SHADOW, self.shadow))
        return readers


def released(registry: Registry, protocol: str, task: str = SEGMENTATION) -> Released:
    """What is released of a protocol's models."""
    versions = registry.versions(protocol, task)
    champion = registry.champion_or_none(protocol, task)
    by_alias = {stage: [one for one in versions if stage in one.aliases and one != champion] for stage in Stage}
    canary, shadow = (next(iter(by_alias[stage]), None) for stage in (Stage.CANARY, Stage.SHADOW))
    share = registry.tag_of(model_name(protocol, task), _SHARE_TAG) if canary is not None else None
    return Released(live=champion, canary=canary, canary_share=float(share or 0.0), shadow=shadow)


def begin(
    registry: Registry, protocol: str, number: int, stage: Stage, share: float = SHARE, task: str = SEGMENTATION
) -> ModelVersion:
    """Have a version tried as a canary or a shadow, in the place of the one that is; raises `ReleaseError`.

    A canary's results are sent, so it must have passed its gate or been released in spite of it by two signatures.
    """
    version = registry.version(protocol, number, task)
    if stage is Stage.LIVE:
        raise ReleaseError("a version goes live by its gate's report alone; nothing was changed")
    if version == registry.champion_or_none(protocol, task):
        raise ReleaseError(f"{version.name} is the champion, which reads studies already; nothing was changed")
    if stage is Stage.CANARY:
        if not 0 < share <= 1:
            raise ReleaseError(f"a share of {share:g} of the studies was asked for, expected more than 0 and at most 1")
        report = registry.gate_report(version)
        if not (report.decision.passed or version.override):
            reasons = "; ".join(report.decision.reasons) or "no reason given"
            raise ReleaseError(f"{version.name} did not pass its gate: {reasons}. It may be a shadow, not a canary.")
    registry.bundle(version)
    if stage is Stage.CANARY:
        registry.set_tag(version.model, _SHARE_TAG, f"{share:g}")
    registry.set_stage(version, stage.value)
    return registry.version(protocol, number, task)


def end(registry: Registry, protocol: str, stage: Stage, task: str = SEGMENTATION) -> ModelVersion:
    """End the trial of the canary or the shadow; raises `ReleaseError` where there is none."""
    of = released(registry, protocol, task)
    version = of.canary if stage is Stage.CANARY else of.shadow
    if stage is Stage.LIVE or version is None:
        raise ReleaseError(f"{model_name(protocol, task)} has no {stage} to end; nothing was changed")
    registry.end_stage(version, stage.value)
    return version
