"""The page of the demo: one HTML file that needs no other, readable in light and in dark. Its look is template.html."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from PIL import Image

from safeguard_sdk import Bundle, Policy, Verdict, __version__
from safeguard_sdk.image import decode_image

TEMPLATE = Path(__file__).with_name("template.html")
THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 480, 80  # pixels, JPEG


@dataclass(frozen=True)
class Sample:
    """A photo in an installed package."""

    package: str
    file: str
    shows: str   # for people
    breaks: str  # the one policy of POLICIES that it breaks: what a right guard says


@dataclass(frozen=True)
class Judged:
    """A sample with its verdicts."""

    sample: Sample
    path: Path
    verdicts: dict[str, Verdict]  # by the name of the policy's file
    rationale: str                # what the model saw

    @property
    def ms(self) -> float:
        """Mean wall time of one check."""
        return sum(sum(verdict.ms.values()) for verdict in self.verdicts.values()) / len(self.verdicts)

    def is_right(self, policy: str) -> bool:
        return (self.verdicts[policy].label == "unsafe") == (self.sample.breaks == policy)


def write_report(path: Path, bundle: Bundle, policies: list[Policy], judged: list[Judged]) -> None:
    """Write the page. `policies` are in the order of each sample's verdicts."""
    hashes = [("bundle", bundle.sha256), ("prompt", bundle.style.sha256),
              *((policy.name, policy.sha256) for policy in policies)]
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        right=sum(one.is_right(name) for one in judged for name in one.verdicts),
        verdicts=sum(len(one.verdicts) for one in judged),
        photos=len(judged),
        policies="\n".join(_policy(policy) for policy in policies),
        cards="\n".join(_card(one, policies) for one in judged),
        made_by=escape(f"safeguard {__version__}, bundle {bundle.name} {bundle.version}"),
        hashes="".join(f"<li>{escape(name)} <code>{sha256}</code></li>" for name, sha256 in hashes),
    )
    path.write_text(page, encoding="utf-8")


def _policy(policy: Policy) -> str:
    return (f'<section class="policy"><h2>{escape(policy.name)}</h2>\n'
            f"<pre>{escape(policy.canonical_text)}</pre></section>")


def _card(one: Judged, policies: list[Policy]) -> str:
    verdicts = "\n".join(_verdict(verdict, policy, one.is_right(name))
                         for (name, verdict), policy in zip(one.verdicts.items(), policies, strict=True))
    return f"""<article>
<img src="{_thumbnail(one.path)}" alt="{escape(one.sample.shows)}">
<div class="text"><h3>{escape(one.sample.shows.capitalize())} <small>{one.ms:.0f} ms</small></h3>
{verdicts}
<p class="seen">{escape(one.rationale)}</p></div>
</article>"""


def _verdict(verdict: Verdict, policy: Policy, right: bool) -> str:
    scored = max(verdict.rules, key=verdict.rules.get) if verdict.rule is None else verdict.rule
    (threshold,) = (rule.unsafe_at for rule in policy.rules if rule.id == scored)
    because = f": {escape(verdict.rule)}" if verdict.rule else ""
    wrong = "" if right else ' <b class="wrong">wrong</b>'
    return f"""<div class="verdict {verdict.label}">
<div><span>{escape(policy.name)}{because}{wrong}</span><span class="chip">{verdict.label}</span></div>
<div class="bar" role="meter" aria-valuemin="0" aria-valuemax="1" aria-valuenow="{verdict.score:.2f}"
 aria-label="score"><i style="width:{verdict.score:.1%}"></i><u style="left:{threshold:.1%}"></u></div>
<span class="score">{verdict.score:.2f}</span></div>"""


def _thumbnail(path: Path) -> str:
    """A small JPEG as a data URI."""
    image = Image.fromarray(decode_image(path))
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
