// The percentile curves of all stages in one drawing: latency over 1 / (1 - quantile), both in powers of ten, so that each
// further nine has as much room as the one before.

import { element, svg } from "./dom.js";
import { count, micros } from "./format.js";
import { decades, logarithmic } from "./scale.js";

const HEIGHT = 320;
const LEFT = 64;
const RIGHT = 28;
const TOP = 12;
const BOTTOM = 40;

/** `90 %` for 10, `99.9 %` for 1000. */
function percent(inverse) {
  const nines = Math.round(Math.log10(inverse));
  if (nines === 0) return "0 %";
  return `${(100 * (1 - 1 / inverse)).toFixed(Math.max(0, nines - 2))} %`;
}

/** The points as drawn; the last, of 100 %, has no place on the scale and stands where one value in all would. */
function curve(points) {
  let x = 1;
  return points.map(({ quantile, value, total }) => {
    x = Math.max(x, quantile < 1 ? 1 / (1 - quantile) : total);
    return { x, value };
  });
}

export class Percentiles {
  constructor() {
    this.stages = {};
    this.hidden = new Set();
    this.legend = element("div", { class: "legend", role: "group", "aria-label": "Stages that are drawn" });
    this.picture = element("div", { class: "picture" });
    this.node = element("div", {}, this.legend, this.picture);
  }

  update(stages) {
    const seen = JSON.stringify(stages);
    if (seen === this.seen) return;
    this.seen = seen;
    if (Object.keys(this.stages).join() !== Object.keys(stages).join()) this.choose(Object.keys(stages));
    this.stages = stages;
    this.draw();
  }

  choose(names) {
    this.legend.replaceChildren(...names.map((name, place) => {
      const box = element("input", { type: "checkbox", checked: !this.hidden.has(name) });
      box.addEventListener("change", () => {
        if (box.checked) this.hidden.delete(name);
        else this.hidden.add(name);
        this.draw();
      });
      const swatch = svg("svg", { width: 26, height: 10, "aria-hidden": "true" },
        svg("line", { class: `curve series-${place}`, x1: 1, x2: 25, y1: 5, y2: 5 }));
      return element("label", {}, box, swatch, name);
    }));
  }

  draw() {
    const drawn = Object.entries(this.stages)
      .map(([name, points], place) => ({ name, place, points: curve(points), total: points.at(-1)?.total ?? 0 }))
      .filter(({ name, points }) => points.length > 0 && !this.hidden.has(name));
    const width = Math.max(240, Math.floor(this.picture.clientWidth || this.node.clientWidth));
    if (drawn.length === 0) {
      this.picture.replaceChildren(element("p", { class: "empty" }, "Nothing was measured yet."));
      return;
    }
    const every = drawn.flatMap(({ points }) => points);
    const xs = decades(1, Math.max(10, ...every.map(({ x }) => x)));
    const ys = decades(Math.min(...every.map(({ value }) => value)), Math.max(...every.map(({ value }) => value)));
    const x = logarithmic(xs[0], xs.at(-1), LEFT, width - RIGHT);
    const y = logarithmic(ys[0], ys.at(-1), HEIGHT - BOTTOM, TOP);
    const said = drawn.map(({ name, points, total }) => `${name}: ${count(total)} values, at most ${micros(points.at(-1).value)}`);
    this.picture.replaceChildren(svg("svg",
      { role: "img", "aria-label": `Percentile curves. ${said.join(". ")}.`, width, height: HEIGHT },
      ...axes(xs, ys, x, y, width), ...drawn.map((one) => line(one, x, y))));
  }
}

function line({ name, place, points }, x, y) {
  const path = points.map((point, at) => `${at === 0 ? "M" : "L"}${x(point.x).toFixed(1)} ${y(point.value).toFixed(1)}`);
  return svg("path", { class: `curve series-${place}`, d: path.join(" ") }, svg("title", {}, name));
}

function axes(xs, ys, x, y, width) {
  const text = (attributes, said) => svg("text", attributes, said);
  // Labels that would run into each other are left out.
  const room = (width - LEFT - RIGHT) / (xs.length - 1);
  const each = Math.ceil(62 / room);
  return [
    ...ys.flatMap((value) => [
      svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      text({ x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, micros(value)),
    ]),
    ...xs.flatMap((value, at) => [
      svg("line", { class: "grid", x1: x(value), x2: x(value), y1: TOP, y2: HEIGHT - BOTTOM }),
      at % each === 0 ? text({ x: x(value), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, percent(value)) : null,
    ]),
    text({ x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "share of the values that are not above"),
  ].filter(Boolean);
}
