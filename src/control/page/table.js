// A table whose rows are kept by their key, so that a refresh moves neither the focus nor a selection.

import { button, element, pill } from "./dom.js";

/**
 * Columns: `{ head, value(row) }`, where a value is text, `{ text, tone }` for a pill or `{ text, href }` for a link, and
 * `number: true` aligns it to the right. Actions: `{ text(row), name(row), run(row), danger }`, where no text hides it.
 */
export class Table {
  constructor(label, key, columns, actions = [], empty = "None.") {
    Object.assign(this, { key, columns, actions, rows: new Map() });
    const heads = columns.map(({ head, number }) =>
      element("th", { scope: "col", role: "columnheader", class: number && "number" }, head));
    if (actions.length > 0) {
      heads.push(element("th", { scope: "col", role: "columnheader" }, element("span", { class: "unseen" }, "Actions")));
    }
    this.body = element("tbody", { role: "rowgroup" });
    this.none = element("p", { class: "empty", hidden: true }, empty);
    // The roles are said again, because on narrow screens the rows are laid out as cards.
    this.table = element("table", { role: "table", "aria-label": label },
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)), this.body);
    this.node = element("div", { class: "table", tabindex: "-1" }, this.table, this.none);
  }

  update(rows) {
    const wanted = new Map(rows.map((row) => [String(this.key(row)), row]));
    for (const [key, made] of this.rows) if (!wanted.has(key)) this.remove(key, made);
    let place = this.body.firstChild;
    for (const [key, row] of wanted) {
      const made = this.rows.get(key) ?? this.make(key);
      this.show(made, row);
      if (made.line === place) place = place.nextSibling;
      else this.body.insertBefore(made.line, place);
    }
    this.none.hidden = rows.length > 0;
    this.table.hidden = rows.length === 0;
  }

  make(key) {
    const made = { seen: [] };
    made.cells = this.columns.map(({ head, number }) =>
      element("td", { role: "cell", "data-head": head, class: number && "number" }));
    made.buttons = this.actions.map(({ run, danger }) =>
      button("", () => run(made.row), { class: danger && "danger" }));
    made.line = element("tr", { role: "row" }, ...made.cells);
    if (made.buttons.length > 0) made.line.append(element("td", { role: "cell", class: "buttons" }, ...made.buttons));
    this.rows.set(key, made);
    return made;
  }

  show(made, row) {
    made.row = row;
    this.columns.forEach(({ value }, at) => {
      const shown = value(row) ?? "";
      const seen = JSON.stringify(shown);
      if (made.seen[at] === seen) return;
      made.seen[at] = seen;
      made.cells[at].replaceChildren(cell(shown));
    });
    this.actions.forEach(({ text, name }, at) => {
      const made_button = made.buttons[at];
      const said = text(row);
      made_button.hidden = !said;
      if (made_button.textContent !== said) made_button.textContent = said ?? "";
      made_button.setAttribute("aria-label", `${said}: ${name(row)}`);
    });
  }

  /** Who had the focus on a row that goes has it on the one behind, else on the table. */
  remove(key, made) {
    const at = made.buttons.indexOf(document.activeElement);
    const next = made.line.nextSibling ?? made.line.previousSibling;
    made.line.remove();
    this.rows.delete(key);
    if (at >= 0) (next?.querySelectorAll("td.buttons button")[at] ?? this.node).focus();
  }
}

function cell(shown) {
  if (typeof shown !== "object") return document.createTextNode(String(shown));
  if (shown.href) return element("a", { href: shown.href }, shown.text);
  return pill(shown.text, shown.tone);
}
