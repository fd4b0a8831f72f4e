/** Drawings: finals as dots over the last two minutes, and lines of what happened lately. */

export const SPAN_S = 120;
const HEIGHT = 200;
const LEFT = 56;
const BOTTOM = 24;
const LINE = { width: 120, height: 28, points: 120 };
const LEAST_MS = 200;

/** The smallest of 1, 2, 5, 10, .. that is not below. */
function roundUp(value) {
  const decade = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * decade).find((step) => step >= value);
}

export function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

function shape(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}

/**
 * @param finals `{ age_s, latency_ms, unheard, fresh }`.
 * @param flips `{ age_s, label }`: where another model began to serve.
 */
export function drawFinals(svg, finals, flips) {
  const width = svg.clientWidth;
  const most = roundUp(Math.max(LEAST_MS, ...finals.map(({ latency_ms }) => latency_ms)));
  const x = (age_s) => LEFT + (width - LEFT) * (1 - age_s / SPAN_S);
  const y = (ms) => 8 + (HEIGHT - BOTTOM - 8) * (1 - ms / most);
  const parts = [];
  for (const ms of [0, most / 2, most]) {
    parts.push(shape("line", { class: "grid", x1: LEFT, x2: width, y1: y(ms), y2: y(ms) }));
    parts.push(shape("text", { x: LEFT - 8, y: y(ms) + 4, "text-anchor": "end" }, `${ms} ms`));
  }
  for (const [age_s, text] of [[SPAN_S, "2 min ago"], [SPAN_S / 2, "1 min"], [0, "now"]]) {
    const anchor = { [SPAN_S]: "start", 0: "end" }[age_s] ?? "middle";
    parts.push(shape("text", { x: x(age_s), y: HEIGHT - 4, "text-anchor": anchor }, text));
  }
  for (const [index, { age_s, label }] of flips.entries()) {
    const late = age_s < SPAN_S / 4;
    parts.push(shape("line", { class: "flip", x1: x(age_s), x2: x(age_s), y1: 0, y2: HEIGHT - BOTTOM }));
    const [side, anchor] = late ? [-6, "end"] : [6, "start"];
    const top = 12 + 14 * (index % 3);
    parts.push(shape("text", { class: "flip", x: x(age_s) + side, y: top, "text-anchor": anchor }, label));
  }
  for (const { age_s, latency_ms, unheard, fresh } of finals) {
    const kind = `${fresh ? "fresh" : "usual"}${unheard ? " unheard" : ""}`;
    const at = [x(age_s), y(latency_ms)].map((value) => value.toFixed(1));
    parts.push(
      fresh
        ? shape("path", { class: kind, d: `M${at} m0-5l5 5l-5 5l-5-5z` })
        : shape("circle", { class: kind, cx: at[0], cy: at[1], r: 3.5 }),
    );
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.replaceChildren(...parts);
}

/** A line of the newest values, each in [0, most]. */
export class Line {
  #svg;
  #values = [];

  constructor(svg) {
    this.#svg = svg;
    svg.setAttribute("viewBox", `0 0 ${LINE.width} ${LINE.height}`);
    svg.setAttribute("preserveAspectRatio", "none");
  }

  push(value, least_most) {
    this.#values = [...this.#values, value].slice(-LINE.points);
    const most = Math.max(least_most, ...this.#values);
    const first = LINE.points - this.#values.length;
    const points = this.#values.map((one, index) => {
      const x = ((first + index) / (LINE.points - 1)) * LINE.width;
      return `${x.toFixed(1)},${(LINE.height - 1.5 - (one / most) * (LINE.height - 3)).toFixed(1)}`;
    });
    this.#svg.replaceChildren(shape("polyline", { points: points.join(" ") }));
  }
}
