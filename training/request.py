"""What somebody asked to be trained: options in, one frozen value that a job keeps and a run shows, out."""

import json
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from training.plan import ModelTask, PlanError


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class TrainingRequest:
    """One training of a protocol's model.

    `question` names what a classification answers. `snapshot` is the digest of one that is kept; without it one is
    made of the truths as they are. With two `folds` or more the training cases are cross-validated and the networks of
    all folds, as an ensemble, are the model. `warm_start` begins from the champion's weights. `overrides` replace
    values of the plan.
    """

    protocol: str
    task: ModelTask = ModelTask.SEGMENTATION
    question: str = ""
    snapshot: str = ""
    folds: Annotated[int, Field(ge=1, le=20)] = 1
    warm_start: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @model_validator(mode="after")
    def _question_where_one_is_asked(self) -> "TrainingRequest":
        if (self.task is ModelTask.CLASSIFICATION) != bool(self.question):
            raise ValueError("a classification, and nothing else, needs the question that it answers")
        return self

    @classmethod
    def of(cls, **values: Any) -> "TrainingRequest":
        """A request of what somebody typed; raises `PlanError` naming what cannot be."""
        return cls.from_json(json.dumps(values))

    def as_json(self) -> str:
        return _ADAPTER.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> "TrainingRequest":
        """Raises `PlanError` naming what cannot be."""
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'request'}: {e['msg']}" for e in error.errors())
            raise PlanError(f"this cannot be trained: {found}. Nothing was trained.") from error


_ADAPTER: TypeAdapter[TrainingRequest] = TypeAdapter(TrainingRequest)
