// A heat map: time to the right, latency upwards, and the darker (by night: the brighter) the more values.

import { element } from "./dom.js";
import { count, duration, micros } from "./format.js";
import { decades, logarithmic } from "./scale.js";

const HEIGHT = 280;
const LEFT = 64;
const RIGHT = 28;
const TOP = 10;
const BOTTOM = 34;

/** Spans of time that the map shows, in seconds. */
const SPANS = [60, 120, 300, 600];

/** Colours of the ramp, from few to many: custom properties of the style sheet. */
const RAMP = ["--heat-0", "--heat-1", "--heat-2", "--heat-3"];

function channels(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

export class Heat {
  /** A map of `history`: `{ bounds, moments: [{ from, to, came: { stage: counts } }] }`, times in milliseconds. */
  constructor(history) {
    Object.assign(this, { history, stage: "", cursor: null });
    this.canvas = element("canvas", { height: HEIGHT, "aria-hidden": "true" });
    this.frame = element("div", { class: "picture", tabindex: "0", role: "group" }, this.canvas);
    this.scale = element("div", { class: "ramp" }, element("span", {}, "1"), element("span", { class: "colours" }),
      element("span", {}, ""), element("span", {}, "values in a field"));
    this.readout = element("p", { class: "hint", role: "status" });
    this.node = element("div", {}, this.frame, this.scale, this.readout);
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.frame.addEventListener("keydown", (event) => this.step(event));
  }

  show(stage) {
    if (stage !== this.stage) this.cursor = null;
    this.stage = stage;
    const { bounds, moments } = this.history;
    const width = Math.max(240, Math.floor(this.frame.clientWidth));
    const ratio = devicePixelRatio;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(HEIGHT * ratio)) {
      Object.assign(this.canvas, { width: Math.round(width * ratio), height: Math.round(HEIGHT * ratio) });
      Object.assign(this.canvas.style, { width: `${width}px`, height: `${HEIGHT}px` });
    }
    const totals = bounds.map((_, place) => moments.reduce((sum, { came }) => sum + (came[stage]?.[place] ?? 0), 0));
    const first = totals.findIndex((total) => total > 0);
    const last = totals.findLastIndex((total) => total > 0);
    this.measure(width, first < 0 ? 100 : bounds[Math.max(0, first - 1)], last < 0 ? 100_000 : bounds[last]);
    this.most = Math.max(1, ...moments.flatMap(({ came }) => came[stage] ?? []));
    this.paint(ratio, width);
    this.describe(first < 0 ? null : [bounds[Math.max(0, first - 1)], bounds[last]]);
  }

  measure(width, low, high) {
    const { moments } = this.history;
    const end = moments.at(-1)?.to ?? Date.now();
    const past = (end - (moments[0]?.from ?? end)) / 1000;
    this.span = SPANS.find((span) => span >= past) ?? SPANS.at(-1);
    this.ticks = decades(low, high);
    this.y = logarithmic(this.ticks[0], this.ticks.at(-1), HEIGHT - BOTTOM, TOP);
    this.x = (at) => width - RIGHT - ((end - at) / 1000 / this.span) * (width - LEFT - RIGHT);
  }

  paint(ratio, width) {
    const style = getComputedStyle(this.frame);
    const colour = (name) => style.getPropertyValue(name).trim();
    const ramp = RAMP.map((name) => channels(colour(name)));
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, HEIGHT);
    this.axes(context, width, colour);
    for (const { from, to, came } of this.history.moments) {
      const left = Math.max(this.x(from), LEFT);
      const right = this.x(to);
      if (right <= LEFT) continue;
      (came[this.stage] ?? []).forEach((number, place) => {
        if (number === 0) return;
        context.fillStyle = shade(ramp, this.strength(number));
        const [top, bottom] = this.edges(place);
        context.fillRect(left, top, right - left, bottom - top);
      });
    }
    if (this.cursor) this.outline(context, colour("--text"));
    this.scale.children[2].textContent = count(this.most);
  }

  /** 0 for one value, 1 for the most of a field, in powers between. */
  strength(number) {
    return this.most > 1 ? Math.log(number) / Math.log(this.most) : 1;
  }

  edges(place) {
    const { bounds } = this.history;
    return [this.y(bounds[place]), this.y(place > 0 ? bounds[place - 1] : bounds[0] / 2)];
  }

  axes(context, width, colour) {
    context.font = "12px system-ui, sans-serif";
    context.lineWidth = 1;
    for (const tick of this.ticks) {
      const at = Math.round(this.y(tick)) + 0.5;
      context.strokeStyle = colour("--line");
      context.beginPath();
      context.moveTo(LEFT, at);
      context.lineTo(width - RIGHT, at);
      context.stroke();
      context.fillStyle = colour("--muted");
      context.textAlign = "right";
      context.fillText(micros(tick), LEFT - 8, at + 4);
    }
    context.textAlign = "center";
    for (let part = 0; part <= 4; part += 1) {
      const ago = this.span * (1 - part / 4);
      const at = LEFT + (part / 4) * (width - LEFT - RIGHT);
      const said = ago === 0 ? "now" : `−${duration(ago)}`;
      context.fillText(said, at, HEIGHT - 12);
    }
  }

  outline(context, colour) {
    const moment = this.history.moments[this.cursor.moment];
    if (!moment) return;
    const [top, bottom] = this.edges(this.cursor.place);
    context.strokeStyle = colour;
    context.lineWidth = 2;
    const left = this.x(moment.from);
    context.strokeRect(left, top, Math.max(2, this.x(moment.to) - left), bottom - top);
  }

  /** The field under the pointer. */
  point({ offsetX, offsetY }) {
    const { bounds, moments } = this.history;
    const moment = moments.findIndex(({ from, to }) => this.x(from) <= offsetX && offsetX < this.x(to));
    const place = bounds.findIndex((_, at) => this.edges(at)[0] <= offsetY && offsetY < this.edges(at)[1]);
    if (moment < 0 || place < 0) return;
    this.cursor = { moment, place };
    this.tell();
  }

  /** The field beside the last one: arrow keys. */
  step(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const step = steps[event.key];
    const { bounds, moments } = this.history;
    if (!step || moments.length === 0) return;
    event.preventDefault();
    const counts = moments.at(-1).came[this.stage] ?? [];
    this.cursor ??= { moment: moments.length - 1, place: Math.max(0, counts.indexOf(Math.max(...counts))) };
    const within = (value, length) => Math.min(Math.max(value, 0), length - 1);
    this.cursor = {
      moment: within(this.cursor.moment + step[0], moments.length),
      place: within(this.cursor.place + step[1], bounds.length),
    };
    this.tell();
  }

  tell() {
    const { bounds, moments } = this.history;
    const { moment, place } = this.cursor;
    const { from, to, came } = moments[moment];
    const clock = (at) => new Date(at).toLocaleTimeString();
    const low = place > 0 ? bounds[place - 1] : 0;
    this.readout.textContent = `${clock(from)} to ${clock(to)}, ${micros(low)} to ${micros(bounds[place])}: `
      + count(came[this.stage]?.[place] ?? 0);
    this.show(this.stage);
  }

  describe(range) {
    const said = range
      ? `values from ${micros(range[0])} to ${micros(range[1])}, at most ${count(this.most)} in a field`
      : "nothing was measured in this time";
    const label = `Heat map of ${this.stage} over the last ${duration(this.span)}: ${said}. Arrow keys read fields out.`;
    if (this.frame.getAttribute("aria-label") !== label) this.frame.setAttribute("aria-label", label);
  }
}

/** A colour of the ramp, 0 to 1. */
function shade(ramp, strength) {
  const at = Math.min(Math.max(strength, 0), 1) * (ramp.length - 1);
  const low = Math.min(Math.floor(at), ramp.length - 2);
  const mixed = ramp[low].map((channel, place) => Math.round(channel + (ramp[low + 1][place] - channel) * (at - low)));
  return `rgb(${mixed.join(" ")})`;
}
