// What is wrong with a text, or with a certificate, as a list.

import { button, element, pill } from "./dom.js";

/** Problems of a configuration: `{ file, line, key, message, remedy }`. With `go`, each leads to its line of the one text. */
export function problems(list, go) {
  return element("ul", { class: "findings", "aria-label": "Problems" }, ...(list ?? []).map((problem) => {
    const { file, line, key, message, remedy } = problem;
    const place = [file, line].filter((part) => part != null).join(":");
    const at = go ? line && button(`Line ${line}`, () => go(line)) : place && element("span", {}, `${place}:`);
    return element("li", {}, pill("error", "bad"), " ", at, at && " ", key && element("code", {}, key), key && " ",
      element("span", {}, message), remedy && element("p", { class: "hint" }, remedy));
  }));
}

const TONES = { error: "bad", warning: "warn" };

/** Remarks, each a text. */
export function remarks(list) {
  return element("ul", { class: "findings", "aria-label": "Remarks" },
    ...list.map((remark) => element("li", {}, pill("warning", "warn"), " ", element("span", {}, remark))));
}

/** Findings about a certificate: `{ severity, code, subject, message, remedy }`. */
export function findings(list) {
  if (list.length === 0) return element("p", {}, pill("no findings", "good"));
  return element("ul", { class: "findings", "aria-label": "Findings" }, ...list.map((finding) =>
    element("li", {}, pill(finding.severity, TONES[finding.severity]), " ", element("span", {}, finding.message),
      finding.subject && element("p", { class: "hint" }, `About ${finding.subject}`),
      finding.remedy && element("p", { class: "hint" }, finding.remedy))));
}
