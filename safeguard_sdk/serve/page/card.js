// A photo: its picture, its verdict under each policy, and the score of every rule.

import { namePicture, toggle } from "./blur.js";
import { copyOf, find, make, shown } from "./dom.js";
import { moved } from "./panel.js";
import { decide } from "./verdict.js";

// A photo has `results`: Map from a panel's key → {answer: label, score, rule, rules}, {error} or {waiting: true}.
export function makeCard(file, { onRemove, onPoint }) {
  const card = copyOf("card");
  const photo = { file, card, url: URL.createObjectURL(file), results: new Map() };
  const picture = find(".picture", card);
  const image = find("img", card);
  namePicture(picture, file.name);
  picture.addEventListener("click", () => toggle(picture));
  image.addEventListener("error", () => {
    picture.classList.add("empty");
    image.replaceWith(make("span", "none", "This browser cannot show it"));
  });
  image.src = photo.url;
  find("h3", card).textContent = file.name;
  find("h3", card).title = file.name;
  const remove = find(".close", card);
  remove.setAttribute("aria-label", `Take out ${file.name}`);
  remove.addEventListener("click", () => onRemove(photo));
  for (const [event, here] of [["pointerenter", photo], ["pointerleave", null], ["focusin", photo], ["focusout", null]]) {
    card.addEventListener(event, () => onPoint(here));
  }
  find("details", card).addEventListener("toggle", () => showScores(photo));
  return photo;
}

export function dropCard(photo) {
  URL.revokeObjectURL(photo.url);
  photo.card.remove();
}

// Labels follow the thresholds of the panels as they stand now; nothing is asked for. Returns the label under each panel:
// one of LABELS, "failed", or null while there is none.
export function showVerdicts(photo, panels) {
  photo.panels = panels;
  const verdicts = panels.map((panel) => verdictOf(photo, panel));
  find(".verdicts", photo.card).replaceChildren(...verdicts.map((verdict, index) => line(verdict, panels.length > 1 && panels[index].letter)));
  const [one, other] = verdicts;
  const flips = Boolean(one?.score !== undefined && other?.score !== undefined && one.label !== other.label);
  photo.card.classList.toggle("flips", flips);
  find(".differs", photo.card).hidden = !flips;
  showScores(photo);
  return { labels: verdicts.map((verdict) => verdict?.label ?? null), flips };
}

// {label, score, rule, title, was} of a verdict, {label: "failed", message}, {label: null} while it is waited for.
// As long as no threshold has moved the verdict is the server's own.
function verdictOf(photo, panel) {
  const { answer, error } = photo.results.get(panel.key) ?? {};
  if (error) return { label: "failed", message: error.message };
  if (!answer) return { label: null };
  const { label, score, rule } = moved(panel) ? decide(answer.rules, panel.rules) : answer;
  const title = panel.rules.find((one) => one.id === rule)?.title;
  return { label, score, title, was: label === answer.label ? null : answer.label };
}

function line(verdict, letter) {
  const place = make("div", "verdict");
  if (letter) place.append(make("span", "letter", letter));
  if (verdict.label === null) {
    place.append(make("span", "chip waiting", "being judged …"));
  } else if (verdict.label === "failed") {
    place.append(make("b", "chip failed", "not judged"), make("p", "why", verdict.message));
  } else {
    place.append(make("b", `chip ${verdict.label}`, verdict.label), make("span", "number", shown(verdict.score)));
    if (verdict.title) place.append(make("span", "rule-name", verdict.title));
    if (verdict.was) place.append(make("span", "was", `was ${verdict.was}`));
  }
  return place;
}

function showScores(photo) {
  if (!find("details", photo.card).open) return;
  const tables = (photo.panels ?? []).filter((panel) => photo.results.get(panel.key)?.answer).map((panel) => {
    const table = make("table");
    if (photo.panels.length > 1) table.append(make("caption", "", `Policy ${panel.letter}`));
    const scores = photo.results.get(panel.key).answer.rules;
    for (const rule of panel.rules) {
      const row = table.insertRow();
      const name = make("th", "", rule.title);
      name.scope = "row";
      row.append(name, make("td", "number", shown(scores[rule.id])));
    }
    return table;
  });
  find(".scores", photo.card).replaceChildren(...tables);
}
