// The image that is looked at: its picture, its verdict, and the rules that the reviewer says it breaks.

import { ask } from "./api.js";
import { namePicture } from "./blur.js";
import { copyOf, find, make, shown } from "./dom.js";

const KEPT = 8; // pictures, so that going back and forth is immediate
const pictures = new Map(); // id → promise of a URL

export function setUpRules(policy) {
  const boxes = policy.rules.map((rule, index) => {
    const item = copyOf("rule");
    const box = find("input", item);
    box.value = rule.id;
    find(".rule-name", item).textContent = rule.title;
    if (index < 9) find("label", item).prepend(make("kbd", "", String(index + 1)));
    box.addEventListener("change", () => sayMeanings());
    return item;
  });
  find("#rules ol").replaceChildren(...boxes);
}

let row = null;

// The rules that are ticked now; to begin with those that the verdict, or an earlier review, names.
function ticked() {
  return [...document.querySelectorAll("#rules input:checked")].map((box) => box.value);
}

const same = (some, others) => some.length === others.length && some.every((one) => others.includes(one));

// What a press of Disagree would save; null where the reviewer has to say which rule it is.
export function broken() {
  const now = ticked();
  if (!same(now, row.claimed)) return now;
  return row.claimed.length ? [] : null;
}

export function flipRule(number) {
  const box = document.querySelectorAll("#rules input")[number - 1];
  if (!box || box.disabled) return;
  box.checked = !box.checked;
  sayMeanings();
}

export function show(shownRow, policy) {
  row = shownRow;
  find("#name").textContent = row.name;
  const failed = row.label === null;
  const verdict = find("#verdict");
  if (failed) {
    verdict.replaceChildren(make("b", "chip failed", "not judged"), make("span", "", row.failure.message));
  } else {
    const title = policy.rules.find((rule) => rule.id === row.rule)?.title ?? "";
    verdict.replaceChildren(make("b", `chip ${row.label}`, row.label), make("span", "number", shown(row.score)), make("span", "", title));
  }
  const checked = row.broken ?? row.claimed;
  document.querySelectorAll("#rules li").forEach((item) => {
    const box = find("input", item);
    box.checked = !failed && checked.includes(box.value);
    box.disabled = failed;
    find(".number", item).textContent = failed ? "" : shown(row.rules[box.value]);
    item.classList.toggle("claimed", row.claimed.includes(box.value));
  });
  for (const id of ["agree", "disagree", "unsure"]) {
    find(`#${id}`).disabled = failed;
    find(`#${id}`).setAttribute("aria-pressed", String(row.decision === id));
  }
  find("#take-back").disabled = row.decision === null;
  find("#refused").textContent = "";
  sayMeanings();
  showPicture();
}

function sayMeanings() {
  find("#agree span").textContent = breaks(row.claimed);
  const rules = broken();
  find("#disagree span").textContent = rules ? breaks(rules) : "tick the rule it breaks";
}

export const breaks = (rules) => (rules.length ? `breaks ${rules.join(", ")}` : "breaks no rule");

// Blurred whenever another image comes.
async function showPicture() {
  const button = find("#picture");
  const image = find("img", button);
  const none = find(".none", button);
  const asked = row;
  if (button.dataset.id !== row.id) {
    button.dataset.id = row.id;
    namePicture(button, row.name);
    image.hidden = true;
    none.hidden = true;
    button.classList.remove("empty");
  }
  try {
    const url = await pictureOf(asked.id);
    if (asked !== row) return;
    image.src = url;
    image.hidden = false;
  } catch (error) {
    if (asked !== row) return;
    none.textContent = error.status === 404 ? "There is no picture of it: the scan kept none, and its file is not there as it was." : error.message;
    none.hidden = false;
    button.classList.add("empty");
  }
}

export function pictureOf(id) {
  if (!pictures.has(id)) {
    pictures.set(id, fetchPicture(`v1/review/rows/${id}/picture`));
    for (const [old, url] of pictures) {
      if (pictures.size <= KEPT) break;
      pictures.delete(old);
      url.then(URL.revokeObjectURL, () => {});
    }
  }
  return pictures.get(id);
}

export const fetchPicture = async (path) => URL.createObjectURL(await (await ask(path)).blob());
