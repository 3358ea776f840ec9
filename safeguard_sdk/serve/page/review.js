// The desk: rows of a scan, page by page, and a decision about each. Every decision is on the server's disk before the
// next image comes, so whoever closes the page goes on where it was.

import { ask, askJson, sendJson } from "./api.js";
import { setUpBlur, toggle } from "./blur.js";
import { copyOf, count, find, make, save, shown } from "./dom.js";
import { breaks, broken, fetchPicture, flipRule, pictureOf, setUpRules, show } from "./stage.js";

const AT_ONCE = 4; // thumbnails that are fetched
const SIGNS = { agree: "✓", disagree: "✗", unsure: "?" };

let scan = null;
let rows = [];
let at = 0;
let places = [null]; // where the pages begin, up to the one that is shown
let following = null; // where the next page begins
let thumbnails = [];
let turn = Promise.resolve();
let pending = 0; // things to do

setUpBlur();
find("#filters").open = !matchMedia("(max-width: 900px)").matches;
find("#question").addEventListener("submit", (event) => event.preventDefault());
find("#question").addEventListener("change", () => guarded(() => open([null])));
for (const decision of Object.keys(SIGNS)) find(`#${decision}`).addEventListener("click", () => decide(decision));
find("#previous").addEventListener("click", () => guarded(() => go(-1)));
find("#next").addEventListener("click", () => guarded(() => go(1)));
find("#take-back").addEventListener("click", takeBack);
find("#picture").addEventListener("click", () => toggle(find("#picture")));
find("#earlier").addEventListener("click", () => guarded(() => open(places.slice(0, -1))));
find("#later").addEventListener("click", () => guarded(() => open([...places, following])));
find("#export").addEventListener("click", () => guarded(exportReviews));
find("#download").addEventListener("click", () => guarded(async () => {
  save(await (await ask("v1/review/index.csv")).blob(), "index.csv");
}));
document.addEventListener("keydown", onKey);
guarded(start);

async function start() {
  scan = await askJson("v1/review");
  const { policy, bundle } = scan;
  find("#scan").textContent = `${count(scan.rows, "image")} under the policy ${policy.name}, judged by ${bundle.name} ${bundle.version}. ${scan.folder}`;
  find("[name=rule]").append(...policy.rules.map((rule) => new Option(rule.title, rule.id)));
  find("#download").hidden = !scan.exported;
  setUpRules(policy);
  showDone();
  await open([null]);
}

// One after the other, and none is forgotten; what goes wrong is told at the top.
function guarded(work) {
  pending += 1;
  turn = turn.then(async () => {
    find("#problem").textContent = "";
    try {
      await work();
    } catch (error) {
      find("#problem").textContent = error.message;
    }
    pending -= 1;
  });
}

// Shows the page that begins at the last of the places.
async function open(to, last = false) {
  const question = new URLSearchParams([...new FormData(find("#question"))].filter(([, value]) => value !== ""));
  if (to.at(-1) !== null) question.set("after", to.at(-1));
  const page = await askJson(`v1/review/rows?${question}`);
  places = to;
  following = page.next;
  rows = page.rows;
  at = last ? Math.max(0, rows.length - 1) : 0;
  find("#list-name").textContent = count(page.matching, "image");
  find("#earlier").disabled = places.length === 1;
  find("#later").disabled = following === null;
  find("#stage").hidden = rows.length === 0;
  find("#nothing").textContent = rows.length ? "" : "No image is left that these filters let through.";
  drawList();
  if (rows.length) select(at);
}

async function go(step) {
  if (rows[at + step]) select(at + step);
  else if (step > 0 && following !== null) await open([...places, following]);
  else if (step < 0 && places.length > 1) await open(places.slice(0, -1), true);
  else find("#said").textContent = step > 0 ? "That was the last one." : "This is the first one.";
}

function select(index) {
  const focused = find("#list").contains(document.activeElement);
  at = index;
  show(rows[at], scan.policy);
  find("#list").querySelectorAll("button").forEach((button, number) => {
    button.tabIndex = number === at ? 0 : -1;
    if (number === at) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  });
  const item = find("#list").children[at];
  if (focused) find("button", item).focus();
  keepInSight(item);
  if (rows[at + 1]) pictureOf(rows[at + 1].id).catch(() => {});
}

// Within the list alone: the page itself stays where it is.
function keepInSight(item) {
  const list = find("#list");
  const above = item.offsetTop - list.scrollTop;
  const below = item.offsetTop + item.offsetHeight - list.scrollTop - list.clientHeight;
  if (above < 0) list.scrollTop += above;
  else if (below > 0) list.scrollTop += below;
}

function decide(decision) {
  const row = rows[at];
  if (!row || row.label === null || pending) return; // while another image is on its way, nobody has seen it yet
  const rules = decision === "disagree" ? broken() : undefined;
  if (rules === null) {
    find("#refused").textContent = "Tick the rule that it breaks, then disagree.";
    find("#rules input").focus();
    return;
  }
  guardedBelow(async () => {
    keep(await sendJson(`v1/review/rows/${row.id}`, "PUT", rules ? { decision, broken: rules } : { decision }));
    find("#said").textContent = `${row.name}: ${said(rows[at])}. Saved.`;
    await go(1);
  });
}

function takeBack() {
  const row = rows[at];
  if (!row?.decision || pending) return;
  guardedBelow(async () => {
    keep(await sendJson(`v1/review/rows/${row.id}`, "DELETE"));
    find("#said").textContent = `${row.name}: taken back.`;
    select(at);
  });
}

// As guarded, but told where the decision was made.
function guardedBelow(work) {
  guarded(async () => {
    find("#refused").textContent = "";
    try {
      await work();
    } catch (error) {
      find("#refused").textContent = `Not saved: ${error.message}`;
    }
  });
}

function keep({ row, decision, changed }) {
  rows[at] = row;
  Object.assign(scan, { decision, changed });
  markRow(find("#list").children[at], row);
  showDone();
}

const said = ({ decision, broken: rules }) => (decision === "unsure" ? "unsure" : `${decision}, ${breaks(rules)}`);

function showDone() {
  const done = Object.values(scan.decision).reduce((sum, number) => sum + number, 0);
  const all = scan.rows - (scan.label.failed ?? 0);
  find("#done").max = all || 1;
  find("#done").value = done;
  const parts = Object.entries(scan.decision).map(([decision, number]) => `${number} ${decision}`);
  find("#done-text").textContent = `${done.toLocaleString("en")} of ${all.toLocaleString("en")} reviewed${parts.length ? `: ${parts.join(", ")}` : ""}${scan.changed ? `; ${scan.changed} changed since, to be reviewed again` : ""}`;
}

function drawList() {
  thumbnails.forEach(URL.revokeObjectURL);
  thumbnails = [];
  const items = rows.map((row, index) => {
    const item = copyOf("row");
    markRow(item, row);
    find("button", item).addEventListener("click", () => select(index));
    return item;
  });
  find("#list").replaceChildren(...items);
  const waiting = rows.map((row, index) => [row, items[index], rows]);
  for (let worker = 0; worker < AT_ONCE; worker += 1) fetchThumbnails(waiting);
}

async function fetchThumbnails(waiting) {
  while (waiting.length) {
    const [row, item, page] = waiting.shift();
    try {
      if (row.label === null) throw new Error("not judged");
      const url = await fetchPicture(`v1/review/rows/${row.id}/thumbnail`);
      if (page !== rows) {
        URL.revokeObjectURL(url);
        return;
      }
      thumbnails.push(url);
      find("img", item).src = url;
      find("img", item).hidden = false;
    } catch (error) {
      const none = find(".none", item);
      none.textContent = error.status === 404 ? "no picture" : error.message;
      none.hidden = false;
    }
  }
}

function markRow(item, row) {
  const button = find("button", item);
  const verdict = row.label === null ? "not judged" : `${row.label} ${shown(row.score)} ${row.rule ?? ""}`.trim();
  button.setAttribute("aria-label", `${row.name}: ${verdict}${row.decision ? `, reviewed: ${said(row)}` : ""}`);
  button.title = `${row.name}\n${verdict}`;
  const mark = find(".mark", item);
  mark.replaceChildren(make("b", `chip ${row.label ?? "failed"}`, row.label === null ? "–" : shown(row.score)));
  if (row.decision) mark.append(make("b", `sign ${row.decision}`, SIGNS[row.decision]));
}

async function exportReviews() {
  find("#exported").textContent = "Exporting …";
  try {
    const done = await sendJson("v1/review/index.csv", "PUT");
    const unsure = done.unsure ? ` ${count(done.unsure, "image")} you were unsure of ${done.unsure === 1 ? "is" : "are"} not in it.` : "";
    const left = done.left_out ? ` ${count(done.left_out, "photo")} had to be left out:` : "";
    find("#exported").textContent = `${count(done.photos, "photo")} in ${done.path}.${unsure}${left}`;
    find("#left-out").replaceChildren(...done.reasons.map((reason) => make("li", "", reason)));
    find("#download").hidden = false;
  } catch (error) {
    find("#exported").textContent = "";
    throw error;
  }
}

function onKey(event) {
  const typing = event.target.matches("select, textarea, input:not([type=checkbox])");
  if (typing || event.ctrlKey || event.altKey || event.metaKey || !find("#shortcuts").checked || find("dialog[open]")) return;
  const keys = {
    a: () => decide("agree"), d: () => decide("disagree"), u: () => decide("unsure"), z: takeBack,
    b: () => toggle(find("#picture")), arrowleft: () => guarded(() => go(-1)), arrowright: () => guarded(() => go(1)),
  };
  for (let number = 1; number <= 9; number += 1) keys[number] = () => flipRule(number);
  const act = keys[event.key.toLowerCase()];
  if (!act || !rows.length) return;
  event.preventDefault();
  act();
}
