// Elements, made without HTML: what comes from outside is always text.

const SVG = "http://www.w3.org/2000/svg";

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** An element. Functions are listeners (`onclick`), `null` and `false` leave an attribute out; children are nodes or text. */
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An element of a drawing. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** A state in a word, with a sign for those who do not tell the colours apart. Tones: good, warn, bad, plain. */
export function pill(text, tone = "plain") {
  const sign = { good: "✓ ", warn: "! ", bad: "✕ ", plain: "" }[tone];
  return element("span", { class: `pill ${tone}` }, element("span", { "aria-hidden": "true" }, sign), text);
}

let fields = 0;

/** A label with its input, select or textarea, and a hint below. */
export function field(label, input, hint) {
  fields += 1;
  input.id ||= `field-${fields}`;
  const note = hint && element("small", { id: `${input.id}-hint` }, hint);
  if (note) input.setAttribute("aria-describedby", note.id);
  return element("div", { class: "field" }, element("label", { for: input.id }, label), input, note);
}

export function select(options, attributes = {}) {
  return element("select", attributes, ...options.map((option) => {
    const [value, text] = Array.isArray(option) ? option : [option, option];
    return element("option", { value }, text);
  }));
}

export function button(text, onclick, attributes = {}) {
  return element("button", { type: "button", onclick, ...attributes }, text);
}

/** A form that is never sent: `submit` is called instead. */
export function form(submit, attributes, ...children) {
  const onsubmit = (event) => {
    event.preventDefault();
    submit();
  };
  return element("form", { onsubmit, autocomplete: "off", ...attributes }, ...children);
}

/** A part of a view, with its heading. */
export function section(heading, ...children) {
  return element("section", {}, element("h2", {}, heading), ...children);
}

/** Names and values, `[name, value, class]`; those without a value are left out. */
export function facts(list) {
  const known = list.filter(([, value]) => value != null && value !== "");
  return element("dl", {}, ...known.map(([name, value, kind]) =>
    element("div", { class: kind }, element("dt", {}, name), element("dd", {}, value))));
}
