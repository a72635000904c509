"""Who may use which model: an account and a model in, whether it is offered out, or a refusal in words.

What a model answers to clicks, scribbles or an uploaded image is its proposal as much as a prelabel is, and who saw it
tends to agree with it. So the prelabel policy holds for every model: that of the case's protocol for cases
(`Visible.prelabel`), that of the model's protocol for images that are no case. A model that is of no protocol could be
shown any case's image so; readers may use it on an uploaded image only where no protocol withholds proposals.
"""

from collections.abc import Sequence

from apps.annotation.served_model import ServedModel
from apps.annotation.visible import RefusedError
from labeling_protocols.protocol import PrelabelPolicy, Protocol
from labeling_protocols.records import Account, Role


def is_offered(model: ServedModel, account: Account | None, protocols: Sequence[Protocol]) -> bool:
    """Whether a viewer is told of the model: viewers offer what they are told of, and can run it on each new case."""
    if account is None or Role.READER not in account.roles:
        return True
    mine = [model.protocol] if model.protocol is not None else protocols
    return any(protocol.prelabels is not PrelabelPolicy.NEVER for protocol in mine)


def require_for_upload(model: ServedModel, account: Account, protocols: Sequence[Protocol]) -> None:
    """Raise `RefusedError` for a reader who is not always shown what this model proposes."""
    if Role.READER not in account.roles:
        return
    if model.protocol is not None and model.protocol.prelabels is not PrelabelPolicy.ALWAYS:
        raise RefusedError(
            "readers of this protocol are not shown what a model proposes of any image. Nothing was done."
        )
    if model.protocol is None and any(protocol.prelabels is not PrelabelPolicy.ALWAYS for protocol in protocols):
        raise RefusedError(
            "readers of a protocol of this site are not always shown what a model proposes, so this model answers"
            " readers for their cases alone. Nothing was done."
        )
