// A policy as YAML that safeguard reads back: block style, keys in the order of safeguard_sdk/policy.py.

const PLAIN = /^[A-Za-z][A-Za-z0-9 _,.()/'-]*$/;
const OTHERWISE_READ = /^(y|n|yes|no|true|false|on|off|null)$/i;

export function toYaml(policy, rules) {
  const lines = [`name: ${scalar(policy.name)}`, `version: ${JSON.stringify(policy.version)}`, "rules:"];
  for (const rule of rules) {
    lines.push(`  - id: ${scalar(rule.id)}`, `    title: ${scalar(rule.title)}`);
    for (const key of ["forbids", "allows"]) {
      if (rule[key]?.length) lines.push(`    ${key}:`, ...rule[key].map((phrase) => `      - ${scalar(phrase)}`));
    }
    if (rule.text) lines.push(`    text: ${text(rule.text)}`);
    lines.push(`    review_at: ${rule.review_at}`, `    unsafe_at: ${rule.unsafe_at}`);
  }
  return lines.join("\n") + "\n";
}

// JSON's strings are YAML's double-quoted ones, the line ends of Unicode aside.
function scalar(value) {
  if (PLAIN.test(value) && value === value.trim() && !OTHERWISE_READ.test(value)) return value;
  return JSON.stringify(value).replace(/[\u0085\u2028\u2029]/g, (end) => "\\u" + end.charCodeAt(0).toString(16).padStart(4, "0"));
}

function text(value) {
  if (!value.includes("\n") || /^[ \t]/.test(value) || /[\t\u0085\u2028\u2029]/.test(value)) return scalar(value);
  return "|\n" + value.split("\n").map((line) => (line ? `      ${line}` : "")).join("\n");
}
