"""Why a reader was given a case, in the words he may be told: an offer and its protocol in, a sentence out."""

from labeling_protocols.case_scores import Offer
from labeling_protocols.protocol import PrelabelPolicy, Protocol
from training.acquisition import STRATEGIES


def reason_of(protocol: Protocol, offer: Offer | None) -> str:
    """Empty where nothing is to tell: nobody's order gave him the case.

    What a model saw or is unsure of is told only where the protocol shows readers its proposals at once; else the
    strategy's own sentence, which is the same for each case.
    """
    if offer is None or offer.strategy not in STRATEGIES:
        return ""
    told = offer.why if protocol.prelabels is PrelabelPolicy.ALWAYS else ""
    return told or STRATEGIES[offer.strategy].reason
