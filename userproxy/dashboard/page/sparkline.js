// The last two minutes of a rate as a line, with its greatest value as the height.

import { drawn, mark } from "./dom.js";
import { SAMPLES } from "./store.js";

/** An empty sparkline; `draw` fills it. */
export function sparkline(width, height) {
  const root = drawn("svg", {
    class: "sparkline",
    viewBox: `0 0 ${width} ${height}`,
    width,
    height,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  });
  root.append(drawn("path", { class: "area" }), drawn("path", { class: "line" }), drawn("path", { class: "lost" }));
  return root;
}

/** Draw a series, oldest first, up to its greatest value, with a tick at the foot wherever `failed` is not 0. */
export function draw(root, series, width, height, failed = []) {
  const [area, curve, lost] = root.children;
  const line = path(series, width, height, Math.max(...series, 0));
  mark(curve, "d", line);
  mark(area, "d", line ? `${line}V${height}H${start(series, width).toFixed(1)}Z` : "");
  mark(lost, "d", failed.map((value, place) => (value > 0 ? `M${(start(failed, width) + (place * width) / (SAMPLES - 1)).toFixed(1)} ${height}v-4` : "")).join(""));
}

function start(series, width) {
  return width - ((series.length - 1) * width) / (SAMPLES - 1);
}

/** The `d` of the line. */
export function path(series, width, height, most) {
  if (series.length < 2) return "";
  const step = width / (SAMPLES - 1);
  const scale = most > 0 ? (height - 2) / most : 0;
  let at = start(series, width);
  let text = "";
  for (const value of series) {
    text += `${text ? "L" : "M"}${at.toFixed(1)} ${(height - 1 - value * scale).toFixed(1)}`;
    at += step;
  }
  return text;
}
