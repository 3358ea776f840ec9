"""A batch of images, each under its own policy, on one engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from safeguard_sdk.engine import Engine, ImageEmbedding
from safeguard_sdk.guard import Guard
from safeguard_sdk.image import ModelInput
from safeguard_sdk.policy import Policy
from safeguard_sdk.serve.prefixes import Prefixes
from safeguard_sdk.verdict import Verdict


@dataclass(frozen=True, eq=False, slots=True)
class Question:
    """One image, ready for the engine, and the policy that it is judged by."""

    model_input: ModelInput
    policy: Policy


Outcome = Verdict | Exception


class Judge:
    """Calls of it are for one thread, that of the engine. A verdict is that of `Guard.check`, to the bit."""

    def __init__(self, engine: Engine, prefixes: Prefixes) -> None:
        self._engine, self._prefixes = engine, prefixes

    def __call__(self, questions: Sequence[Question]) -> list[Outcome]:
        """An outcome for each question: where the engine failed, what it raised."""
        embeddings = _each(self._engine.encode, [question.model_input for question in questions])
        outcomes: list = list(embeddings)  # failures stay where they are
        rows_of: dict[Policy, list[int]] = {}
        for row, (question, embedding) in enumerate(zip(questions, embeddings, strict=True)):
            if not isinstance(embedding, Exception):
                rows_of.setdefault(question.policy, []).append(row)
        for policy, rows in rows_of.items():
            verdicts = self._under(policy, [embeddings[row] for row in rows])
            for row, verdict in zip(rows, verdicts, strict=True):
                outcomes[row] = verdict
        return outcomes

    def read(self, policy: Policy) -> Guard:
        """A guard under this policy. Raises PolicyError if a rule is too long."""
        return Guard.on(self._engine, policy, self._prefixes.read)

    def _under(self, policy: Policy, embeddings: list[ImageEmbedding]) -> list[Outcome]:
        try:
            guard = self.read(policy)
        except Exception as error:  # of the runtime, whose exceptions share no base class
            return [error] * len(embeddings)
        return _each(guard.judge, embeddings)


def _each(call: Callable[[list], list], arguments: list) -> list:
    """What `call` makes of all arguments; if it fails, of each alone, so that one does not take the others with it."""
    try:
        return call(arguments)
    except Exception as error:
        if len(arguments) == 1:
            return [error]
        return [_each(call, [argument])[0] for argument in arguments]
