// What is wrong with a text, or with a certificate, as a list.

import { button, element, pill } from "./dom.js";

/** Problems of a configuration: `{ line, key, message, remedy }`. With `go`, each leads to its line. */
export function problems(list, go) {
  return element("ul", { class: "findings", "aria-label": "Problems" }, ...(list ?? []).map((problem) => {
    const { line, key, message, remedy } = typeof problem === "string" ? { message: problem } : problem;
    const at = line == null ? null : go ? button(`Line ${line}`, () => go(line)) : element("span", {}, `Line ${line}`);
    return element("li", {}, pill("error", "bad"), " ", at, at && " ", key && element("code", {}, key), key && " ",
      element("span", {}, message), remedy && element("p", { class: "hint" }, remedy));
  }));
}

const TONES = { error: "bad", warning: "warn" };

/** Findings about a certificate: `{ severity, code, certificate, message, remedy }`. */
export function findings(list) {
  if (list.length === 0) return element("p", {}, pill("no findings", "good"));
  return element("ul", { class: "findings", "aria-label": "Findings" }, ...list.map((finding) =>
    element("li", {}, pill(finding.severity, TONES[finding.severity]), " ", element("span", {}, finding.message),
      finding.certificate && element("p", { class: "hint" }, `About ${finding.certificate}`),
      finding.remedy && element("p", { class: "hint" }, finding.remedy))));
}
