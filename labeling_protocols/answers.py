"""Answers of several readers to one question: whether they agree, and which answer counts. Pure functions."""

from collections import Counter
from collections.abc import Mapping, Sequence

from labeling_protocols.label import Answer
from labeling_protocols.protocol import Protocol
from labeling_protocols.protocol_parts import AnswerAgreement, IntegerQuestion, Question, TextQuestion


def answer_dispute(question: Question, answers: Sequence[Answer]) -> tuple[str, float] | None:
    """Why these answers are a dispute, in words, and how severe (at most 1); None where they are none.

    The answers stand in order of size, so that the words do not tell who gave which.
    """
    if isinstance(question, TextQuestion) or question.agreement is AnswerAgreement.ANY or len(answers) < 2:
        return None
    shown = ", ".join(sorted(map(str, answers)))
    if isinstance(question, IntegerQuestion):
        numbers = sorted(map(int, answers))
        shown = ", ".join(map(str, numbers))
    if question.agreement is AnswerAgreement.MAJORITY:
        if majority_answer(answers) is None:
            return f"{question.name}: no answer has a majority among {shown}", 1.0
        return None
    if isinstance(question, IntegerQuestion):
        apart = numbers[-1] - numbers[0]
        if apart <= question.tolerance:
            return None
        widest = question.max - question.min - question.tolerance
        within = f", more than {question.tolerance} apart" if question.tolerance else ""
        return f"{question.name}: answers {shown}{within}", (apart - question.tolerance) / widest
    return None if len(set(answers)) == 1 else (f"{question.name}: answers {shown}", 1.0)


def common_answers(protocol: Protocol, answers: Sequence[Mapping[str, Answer]]) -> dict[str, Answer]:
    """The answer that counts for each question: the majority's, or the lower median of numbers within a tolerance.

    A question without such an answer is left open.
    """
    common: dict[str, Answer] = {}
    for question in protocol.questions:
        given = [of_reader[question.name] for of_reader in answers if question.name in of_reader]
        answer = majority_answer(given)
        if isinstance(question, IntegerQuestion) and question.tolerance and given:
            numbers = sorted(map(int, given))
            near = numbers[-1] - numbers[0] <= question.tolerance
            answer = numbers[(len(numbers) - 1) // 2] if near else answer
        if answer is not None:
            common[question.name] = answer
    return common


def majority_answer(answers: Sequence[Answer]) -> Answer | None:
    """The answer that more than half gave, or None."""
    if not answers:
        return None
    answer, count = Counter(answers).most_common(1)[0]
    return answer if 2 * count > len(answers) else None
