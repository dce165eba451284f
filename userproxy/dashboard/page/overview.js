// The sums of all Services: in the page's head, and as charts where no Service is chosen.

import { attention } from "./attention.js";
import { byId, drawn, element, mark, say } from "./dom.js";
import { bytes, count, rate } from "./figures.js";
import { path } from "./sparkline.js";

const MOST_LINES = 100;
const WIDTH = 600;
const HEIGHT = 96;
const CHARTS = [
  { title: "Connections a second", form: rate, series: [["opened_rate", "opened", "begin"]] },
  { title: "Bytes a second", form: bytes, series: [["up_rate", "up", "up, from clients"], ["down_rate", "down", "down, to clients"]] },
  { title: "Clients a second that met trouble", form: rate, series: [["failed_rate", "failed", "not served"], ["retried_rate", "retried", "served after a retry"]] },
];
const TOTALS = [
  ["active", "active", count],
  ["opened_rate", "conn/s", rate],
  ["up_rate", "up/s", bytes],
  ["down_rate", "down/s", bytes],
  ["failed_rate", "failed/s", rate],
  ["retried_rate", "retried/s", rate],
];

export class Overview {
  constructor(store, page) {
    this.store = store;
    this.page = page;
    this.place = byId("overview");
    this.list = element("ul", { className: "attention", "aria-label": "What needs attention", tabIndex: 0 });
    this.lines = new Map();
    this.place.append(this.list);
    this.charts = CHARTS.map((chart) => this.chart(chart));
    this.totals = TOTALS.map(([name, title]) => {
      const value = element("dd", { "data-total": name });
      byId("totals").append(element("div", {}, element("dt", {}, title), value));
      return value;
    });
  }

  chart({ title, series }) {
    const lines = series.map(([, name]) => drawn("path", { class: `line ${name}` }));
    const peak = element("span", { className: "peak" });
    const values = series.map(([, name, words]) => {
      const value = element("b");
      return { value, root: element("span", { className: `key ${name}` }, element("i", { "aria-hidden": "true" }), value, ` ${words}`) };
    });
    const drawing = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    for (const part of [0.25, 0.5, 0.75]) drawing.append(drawn("line", { class: "guide", x1: 0, x2: WIDTH, y1: HEIGHT * part, y2: HEIGHT * part }));
    drawing.append(...lines);
    this.place.append(
      element(
        "figure",
        { className: "chart" },
        element("figcaption", {}, element("span", { className: "title" }, title), ...values.map(({ root }) => root), peak),
        drawing,
      ),
    );
    return { lines, values, peak };
  }

  show() {
    const isChosen = this.page.subject !== null;
    const sums = this.store.totals();
    for (const [place, [name, , form]] of TOTALS.entries()) {
      say(this.totals[place], form(sums[name]));
      mark(this.totals[place], "data-trouble", (name === "failed_rate" || name === "retried_rate") && sums[name] > 0);
    }
    this.place.hidden = isChosen;
    if (isChosen) return;
    this.showAttention();
    for (const [place, { form, series }] of CHARTS.entries()) {
      const { lines, values, peak } = this.charts[place];
      const most = Math.max(...series.flatMap(([name]) => this.store.all[name]), 0);
      for (const [each, [name]] of series.entries()) {
        mark(lines[each], "d", path(this.store.all[name], WIDTH, HEIGHT, most));
        say(values[each].value, form(sums[name]));
      }
      say(peak, most > 0 ? `top ${form(most)}` : "");
    }
  }

  /** What is wrong, or was asked for, now. Lines that stay are the same elements: a screen reader stays where it is. */
  showAttention() {
    const found = this.store.status === null ? [] : attention(this.store);
    const shown = found.slice(0, MOST_LINES);
    if (this.store.status !== null && found.length === 0) shown.push({ id: "well", state: "good", glyph: "●", title: "Nothing needs attention", text: "", key: null });
    if (found.length > MOST_LINES) shown.push({ id: "more", state: "off", glyph: "…", title: `and ${count(found.length - MOST_LINES)} more`, text: "", key: null });
    const lines = new Map(shown.map((each) => [each.id, this.lines.get(each.id) ?? lineOf(each)]));
    for (const [id, made] of this.lines) if (!lines.has(id)) made.root.remove();
    this.lines = lines;
    for (const [place, each] of shown.entries()) {
      const { root, glyph, title, text } = lines.get(each.id);
      mark(root, "data-state", each.state);
      say(glyph, each.glyph);
      say(title, each.title);
      say(text, each.text);
      mark(root, "title", each.text);
      if (this.list.children[place] !== root) this.list.insertBefore(root, this.list.children[place] ?? null);
    }
  }
}

function lineOf({ id, key }) {
  const glyph = element("span", { className: "glyph", "aria-hidden": "true" });
  const title = key !== null ? element("a", { className: "about", href: `#/${key}` }) : element("b", { className: "about" });
  const text = element("span", { className: "words" });
  return { root: element("li", { "data-line": id }, glyph, title, " ", text), glyph, title, text };
}
