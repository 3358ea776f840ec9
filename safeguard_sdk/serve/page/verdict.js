// From scores to a verdict, exactly as safeguard_sdk/verdict.py decides; tests/test_serve_page.py holds the two together.

export const LABELS = ["safe", "review", "unsafe"]; // in order of severity

function labelOf(score, rule) {
  return score >= rule.unsafe_at ? "unsafe" : score >= rule.review_at ? "review" : "safe";
}

// scores: {rule id: score}; rules: [{id, review_at, unsafe_at}] in the policy's order. The gravest label counts, within it
// the highest score, and of equal ones the first rule.
export function decide(scores, rules) {
  let best = null;
  for (const rule of rules) {
    const one = { severity: LABELS.indexOf(labelOf(scores[rule.id], rule)), score: scores[rule.id], rule: rule.id };
    if (!best || one.severity > best.severity || (one.severity === best.severity && one.score > best.score)) best = one;
  }
  return { label: LABELS[best.severity], score: best.score, rule: best.severity ? best.rule : null };
}
