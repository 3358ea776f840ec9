// A policy: picked from the server's or written here, its rules with their thresholds as sliders, its download.

import { askJson } from "./api.js";
import { copyOf, find, make, save, shown } from "./dom.js";
import { toYaml } from "./policy_yaml.js";

const OWN = "\0own"; // no policy can be called so
const THRESHOLDS = ["review_at", "unsafe_at"];
const NARROW = matchMedia("(max-width: 900px)"); // as in style.css

// policies, inline: as GET v1/policies answers them.
// onPolicy(): another policy is here, or none; onThresholds(): a slider has moved.
export function makePanel(section, letter, { policies, inline, onPolicy, onThresholds, onClose = null }) {
  const panel = { letter, section, policy: null, rules: [], key: null, query: "", yaml: null, rows: new Map() };
  section.replaceChildren(copyOf("panel"));
  const heading = find("h2", section);
  heading.id = `${section.id}-name`;
  heading.append("Policy ", make("span", "letter", letter));
  fillSelect(find("select", section), policies, inline);
  find("select", section).setAttribute("aria-labelledby", heading.id);
  find(".thresholds", section).open = !NARROW.matches;

  const writing = find(".writing", section);
  const textarea = find("textarea", section);
  const error = find(".error", section);
  error.id = `${section.id}-error`;
  textarea.setAttribute("aria-describedby", error.id);

  function pick() {
    const chosen = find("select", section).value;
    writing.hidden = chosen !== OWN;
    error.textContent = "";
    const named = policies.find((policy) => policy.name === chosen);
    put(panel, named ?? null, named && { query: `?policy=${encodeURIComponent(named.name)}` }, onThresholds);
    onPolicy();
  }

  async function read() {
    const button = find(".read", section);
    button.disabled = true;
    error.textContent = "";
    textarea.removeAttribute("aria-invalid");
    try {
      const policy = await askJson("v1/policies/check", { method: "POST", body: textarea.value, headers: { "Content-Type": "text/plain; charset=utf-8" } });
      put(panel, policy, { yaml: policy.yaml }, onThresholds);
    } catch (problem) {
      put(panel, null, null, onThresholds);
      textarea.setAttribute("aria-invalid", "true");
      error.textContent = problem.message;
    } finally {
      button.disabled = false;
      onPolicy();
    }
  }

  find("select", section).addEventListener("change", pick);
  find(".read", section).addEventListener("click", read);
  textarea.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) read();
  });
  find(".button input", section).addEventListener("change", async (event) => {
    textarea.value = await event.target.files[0].text();
    event.target.value = "";
    read();
  });
  find(".download", section).addEventListener("click", () => {
    save(toYaml(panel.policy, panel.rules), `${fileName(panel.policy.name)}.yaml`, "application/yaml");
  });
  find(".reset", section).addEventListener("click", () => {
    panel.rules.forEach((rule, index) => THRESHOLDS.forEach((name) => { rule[name] = panel.policy.rules[index][name]; }));
    panel.rules.forEach((rule) => showThresholds(panel, rule));
    onThresholds();
  });
  if (onClose) {
    const close = find(".title .close", section);
    close.hidden = false;
    close.setAttribute("aria-label", `Remove policy ${letter}`);
    close.addEventListener("click", onClose);
  }
  pick();
  return panel;
}

export const moved = (panel) =>
  panel.rules.some((rule, index) => THRESHOLDS.some((name) => rule[name] !== panel.policy.rules[index][name]));

// Where the photos stand on each rule's scale. marks: [{rule: score} of each photo]; here: the one that is pointed at
export function showTicks(panel, marks, here) {
  for (const [rule, row] of panel.rows) {
    const ticks = marks.map((scores) => {
      const tick = make("u", scores === here ? "here" : "");
      tick.style.left = `${scores[rule] * 100}%`;
      return tick;
    });
    find(".ticks", row).replaceChildren(...ticks);
  }
}

function fillSelect(select, policies, inline) {
  select.replaceChildren(...policies.map((policy) => new Option(policy.name, policy.name)));
  if (inline) select.append(new Option("Write your own …", OWN));
}

function put(panel, policy, source, onThresholds) {
  panel.policy = policy;
  panel.rules = policy ? policy.rules.map((rule) => ({ ...rule })) : [];
  panel.query = source?.query ?? "";
  panel.yaml = source?.yaml ?? null;
  panel.key = policy && JSON.stringify([panel.query, policy.sha256]);
  panel.rows = new Map(panel.rules.map((rule, index) => [rule.id, ruleRow(panel, rule, index, onThresholds)]));
  find(".rules", panel.section).replaceChildren(...panel.rows.values());
  find(".warnings", panel.section).replaceChildren(...(policy?.warnings ?? []).map((warning) => make("li", "", warningText(warning))));
  find(".end", panel.section).hidden = !policy;
  find(".thresholds", panel.section).hidden = !policy;
  panel.rules.forEach((rule) => showThresholds(panel, rule));
}

const warningText = (warning) => (typeof warning === "string" ? warning : `rule '${warning.rule}': ${warning.message}`);

function ruleRow(panel, rule, index, onThresholds) {
  const row = copyOf("rule");
  find("summary", row).textContent = rule.title;
  words(find(".words", row), rule);
  for (const name of THRESHOLDS) {
    const kind = name === "review_at" ? "review" : "unsafe";
    const slider = find(`input.${kind}`, row);
    slider.id = `${panel.section.id}-${index}-${kind}`;
    find(`label.${kind}`, row).htmlFor = slider.id;
    slider.setAttribute("aria-label", `${rule.title}: ${kind} from`);
    slider.addEventListener("input", () => {
      // Review never begins above unsafe: the one that is moved pushes the other.
      rule[name] = Number(slider.value);
      if (name === "review_at") rule.unsafe_at = Math.max(rule.unsafe_at, rule.review_at);
      else rule.review_at = Math.min(rule.review_at, rule.unsafe_at);
      showThresholds(panel, rule);
      onThresholds();
    });
  }
  return row;
}

// The rule holds the numbers; a slider shows them to the nearest hundredth.
function showThresholds(panel, rule) {
  const row = panel.rows.get(rule.id);
  for (const [kind, value] of [["review", rule.review_at], ["unsafe", rule.unsafe_at]]) {
    const slider = find(`input.${kind}`, row);
    slider.value = value;
    slider.setAttribute("aria-valuetext", precise(value));
    find(`label.${kind} output`, row).textContent = precise(value);
  }
  find(".strip > .safe", row).style.width = `${rule.review_at * 100}%`;
  find(".strip > .review", row).style.width = `${(rule.unsafe_at - rule.review_at) * 100}%`;
  find(".strip > .unsafe", row).style.width = `${(1 - rule.unsafe_at) * 100}%`;
  find(".reset", panel.section).disabled = !moved(panel);
}

const precise = (value) => (Number(shown(value)) === value ? shown(value) : String(value));

function words(place, rule) {
  if (rule.text) {
    place.append(make("p", "", rule.text));
    return;
  }
  for (const [name, phrases] of [["Forbids", rule.forbids], ["Allows", rule.allows]]) {
    if (!phrases?.length) continue;
    const line = make("p");
    line.append(make("b", "", name), ` ${phrases.join("; ")}`);
    place.append(line);
  }
}

const fileName = (name) => name.replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[.-]+|-+$/g, "") || "policy";
