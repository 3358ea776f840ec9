"""What the two models are asked, and how their answers are drawn.

The official pipeline (SafeGuard-VL a21cdfe, data/recaption/recaption.py) asks the rewriter to leave out what is
unrelated to harm; the paper (arXiv:2603.01228) has it edit as little as possible and keep what is neutral. These words
are ours and follow the paper.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

CAPTION_PROMPT = """\
Describe this photo in one paragraph of plain text: who and what is in it, where they are, and what happens. Say only \
what can be seen. Give no opinion, no heading and no list."""

REWRITE_PROMPT = """\
Below is a caption of this photo. It may leave out, or name too mildly, what somebody who moderates photos has to \
know: violence, injuries, blood, weapons, nudity, sexual acts, drugs, self-harm, hate symbols, crime.

Caption:
{caption}

Write the caption again with these details put back.
- Add words, or replace a mild word by the plain one. Change nothing else.
- Keep every sentence in its place and every other thing that the caption says. Write no new sentence.
- Add only what the photo shows. If nothing is missing, write the caption as it is.
- Write the caption alone: no introduction, no quotation marks, no formatting."""


@dataclass(frozen=True)
class Sampling:
    temperature: float  # 0 takes the likeliest token every time
    max_tokens: int     # of the answer; one that reaches it is cut off and counts as failed


CAPTION_SAMPLING = Sampling(temperature=0.0, max_tokens=1024)  # the official captions were given, so this is ours
REWRITE_SAMPLING = Sampling(temperature=0.7, max_tokens=1024)  # official, recaption.py


def rewrite_prompt(caption: str) -> str:
    return REWRITE_PROMPT.replace("{caption}", caption)  # not format: a caption may hold braces


def prompt_sha256(prompt: str, sampling: Sampling) -> str:
    """Hex digest of all that is asked of a model besides the photo."""
    return hashlib.sha256(json.dumps([prompt, asdict(sampling)]).encode()).hexdigest()
