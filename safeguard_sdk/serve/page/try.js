// The bench: photos on the one side, one or two policies on the other, and the queue of requests between them.

import { ApiError, askJson } from "./api.js";
import { setUpBlur } from "./blur.js";
import { dropCard, makeCard, showVerdicts } from "./card.js";
import { announce, count, find, make } from "./dom.js";
import { makePanel, moved, showTicks } from "./panel.js";
import { LABELS } from "./verdict.js";

const AT_ONCE = 4; // requests; the server puts them into one batch

let server = { policies: [], inline_policies: false };
let panels = [];
let photos = [];
const queue = [];
let running = 0;
let pointed = null;
let drawing = false;
let marksStand = false; // those on the scales, which do not move with the thresholds

setUpBlur();
setUpDrop();
find("#compare").addEventListener("click", compare);
find("#clear").addEventListener("click", () => {
  photos.forEach(dropCard);
  photos = [];
  queue.length = 0;
  find("#files").focus();
  draw();
});
find("#retry").addEventListener("click", () => {
  for (const photo of photos) {
    for (const panel of panels) {
      if (photo.results.get(panel.key)?.error) photo.results.delete(panel.key);
    }
  }
  judge();
});
find("#only-flips input").addEventListener("change", draw);
start();

async function start() {
  try {
    server = await askJson("v1/policies");
  } catch (error) {
    find("#panel-a").replaceChildren(make("p", "error inside", error.message));
    return;
  }
  panels = [panel(find("#panel-a"), "A")];
  judge();
}

function panel(section, letter, onClose = null) {
  return makePanel(section, letter, {
    policies: server.policies, inline: server.inline_policies, onPolicy: judge, onThresholds: drawLabels, onClose,
  });
}

function compare() {
  const section = find("#panel-b");
  section.hidden = false;
  find("#bench").classList.add("two");
  find("#compare").hidden = true;
  panels.push(panel(section, "B", () => {
    section.hidden = true;
    section.replaceChildren();
    find("#bench").classList.remove("two");
    find("#compare").hidden = false;
    find("#compare").focus();
    panels = panels.slice(0, 1);
    judge();
  }));
  judge();
  find("select", section).focus();
}

function setUpDrop() {
  const add = (files) => {
    for (const file of files) {
      const photo = makeCard(file, { onRemove: remove, onPoint: point });
      photos.push(photo);
      find("#cards").append(photo.card);
    }
    judge();
  };
  find("#files").addEventListener("change", (event) => {
    add([...event.target.files]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    find("#bench").classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) find("#bench").classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return; // a text that is moved
    event.preventDefault();
    find("#bench").classList.remove("dragging");
    add([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => add([...event.clipboardData.files]));
}

function remove(photo) {
  const next = photo.card.nextElementSibling ?? photo.card.previousElementSibling;
  dropCard(photo);
  photos = photos.filter((other) => other !== photo);
  (next ? find(".close", next) : find("#files")).focus();
  draw();
}

// Asks for every verdict that a panel wants and nobody has asked for yet.
function judge() {
  for (const one of panels.filter((candidate) => candidate.policy)) {
    for (const photo of photos) {
      if (photo.results.has(one.key)) continue;
      photo.results.set(one.key, { waiting: true });
      queue.push({ photo, key: one.key, query: one.query, yaml: one.yaml, sha256: one.policy.sha256 });
    }
  }
  while (running < AT_ONCE && queue.length) work();
  draw();
}

async function work() {
  running += 1;
  while (queue.length) {
    const job = queue.shift();
    if (!photos.includes(job.photo) || !panels.some((one) => one.key === job.key)) {
      job.photo.results.delete(job.key); // taken out while it waited; it is asked for again if it comes back
      continue;
    }
    try {
      job.photo.results.set(job.key, { answer: await verdict(job) });
    } catch (error) {
      const also = error.kind === "no_key" ? queue.splice(0) : []; // nobody is asked for the key photo by photo
      for (const { photo, key } of [job, ...also]) photo.results.set(key, { error });
    }
    draw();
  }
  running -= 1;
  draw();
}

async function verdict({ photo: { file }, query, yaml, sha256 }) {
  const bytes = await file.arrayBuffer().catch(() => {
    throw new ApiError("unreadable", `${file.name}: cannot be read; it is a folder, or is not there any more.`);
  });
  let body = bytes;
  let headers = { "Content-Type": "application/octet-stream" };
  if (yaml) {
    body = new FormData();
    body.append("image", new Blob([bytes]), file.name);
    body.append("policy", yaml);
    headers = {};
  }
  const onWait = (seconds) => announce(find("#progress"), `The server is busy; going on in ${count(seconds, "second")}.`, 0);
  const answer = await askJson(`v1/check${query}`, { method: "POST", body, headers, onWait });
  if (answer.policy_sha256 !== sha256) {
    throw new ApiError("changed", "The server has read this policy anew since; load the page again.");
  }
  return answer;
}

function draw() {
  marksStand = false;
  drawLabels();
}

// Drawn at most once a frame, however fast a slider moves.
function drawLabels() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    drawNow();
  });
}

function drawNow() {
  const judging = panels.filter((one) => one.policy);
  const tallies = judging.map(() => Object.fromEntries([...LABELS, "failed", "waiting"].map((label) => [label, 0])));
  let flips = 0;
  const onlyFlips = find("#only-flips input").checked && judging.length > 1;
  for (const photo of photos) {
    const verdicts = showVerdicts(photo, judging);
    verdicts.labels.forEach((label, index) => { tallies[index][label ?? "waiting"] += 1; });
    flips += verdicts.flips;
    photo.card.hidden = onlyFlips && !verdicts.flips;
  }
  find("#bench").classList.toggle("some", photos.length > 0);
  find("#summary").hidden = photos.length === 0;
  find("#tallies").replaceChildren(...judging.map((one, index) => tallyLine(one, tallies[index], judging.length > 1)));
  find("#only-flips").hidden = judging.length < 2;
  find("#only-flips span").textContent = `Only the ${count(flips, "photo that differs", "photos that differ")}`;
  find("#retry").hidden = !tallies.some((tally) => tally.failed);
  showProgress(judging, tallies, flips);
  if (!marksStand) judging.forEach(drawTicks);
  marksStand = true;
}

function tallyLine(one, tally, withLetter) {
  const line = make("p", "tally");
  if (withLetter) line.append(make("span", "letter", one.letter));
  line.append(make("span", "name", one.policy.name + (moved(one) ? ", changed" : "")));
  for (const label of [...LABELS, "failed"]) {
    if (label !== "failed" || tally.failed) line.append(make("b", `chip ${label}`, `${tally[label]} ${label === "failed" ? "not judged" : label}`));
  }
  return line;
}

function showProgress(judging, tallies, flips) {
  const waiting = Math.max(0, ...tallies.map((tally) => tally.waiting));
  const progress = waiting ? `${photos.length - waiting} of ${count(photos.length, "photo")} judged` : count(photos.length, "photo");
  if (running || !waiting) find("#progress").textContent = progress;
  if (!photos.length || !judging.length) return;
  const told = judging.map((one, index) => {
    const { safe, review, unsafe, failed } = tallies[index];
    return `Policy ${one.letter}: ${safe} safe, ${review} to review, ${unsafe} unsafe${failed ? `, ${failed} not judged` : ""}.`;
  });
  if (judging.length > 1) told.push(`${count(flips, "photo differs", "photos differ")}.`);
  announce(find("#status"), waiting ? progress : told.join(" "), 700);
}

function drawTicks(one) {
  const scoresOf = (photo) => photo?.results.get(one.key)?.answer?.rules;
  showTicks(one, photos.map(scoresOf).filter(Boolean), scoresOf(pointed));
}

function point(photo) {
  pointed = photo;
  draw();
}
