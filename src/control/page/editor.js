// A text with the numbers of its lines, some of them marked.

import { element, field } from "./dom.js";

export class Editor {
  constructor(label) {
    this.marked = new Set();
    this.input = element("textarea", { spellcheck: "false", wrap: "off", rows: 24, autocapitalize: "off" });
    this.gutter = element("div", { class: "gutter", "aria-hidden": "true" });
    this.input.addEventListener("input", () => this.number());
    this.input.addEventListener("scroll", () => {
      this.gutter.scrollTop = this.input.scrollTop;
    });
    this.node = field(label, this.input);
    this.input.replaceWith(this.frame = element("div", { class: "editor" }));
    this.frame.append(this.gutter, this.input);
    this.number();
  }

  get text() {
    return this.input.value;
  }

  set text(text) {
    this.input.value = text;
    this.mark([]);
  }

  /** Marks these lines, counted from 1. */
  mark(lines) {
    this.marked = new Set(lines);
    this.input.setAttribute("aria-invalid", String(this.marked.size > 0));
    this.number();
  }

  /** Leads to a line and selects it. */
  go(line) {
    const lines = this.input.value.split("\n");
    const from = lines.slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0);
    this.input.focus();
    this.input.setSelectionRange(from, from + (lines[line - 1]?.length ?? 0));
    const height = this.input.scrollHeight / Math.max(1, lines.length);
    this.input.scrollTop = Math.max(0, (line - 4) * height);
  }

  number() {
    const lines = this.input.value.split("\n").length;
    const numbers = Array.from({ length: lines }, (_, at) =>
      element("span", { class: this.marked.has(at + 1) ? "marked" : null }, String(at + 1)));
    this.gutter.replaceChildren(...numbers);
    this.gutter.scrollTop = this.input.scrollTop;
  }
}
