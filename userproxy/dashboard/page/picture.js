// One service port's picture: client -> portal -> Service -> endpoints.
//
// A line is as wide as its rate, measured against the greatest sum of the last two minutes. Lines that carry nothing are
// thin, and broken where nobody is connected either. On a narrow page the four stand below each other, and lines are arcs.

import { byId, drawn, mark, say } from "./dom.js";
import { bytes, counted, rate } from "./figures.js";
import { drainOf, endOf, faultsOf, faultText } from "./faults.js";
import { flow } from "./flow.js";
import { layout } from "./picture_layout.js";

const WIDEST = 30;
const BURST_MILLISECONDS = 4000;
const MINUTE = 60;

export class Picture {
  constructor(store, page) {
    this.store = store;
    this.page = page;
    this.place = byId("picture");
    this.lines = drawn("g", { class: "lines" });
    this.nodes = drawn("g", { class: "nodes" });
    this.bursts = drawn("g", { class: "bursts", "aria-hidden": "true" });
    this.root = drawn("svg", { role: "img" }, this.lines, this.nodes, this.bursts);
    this.place.append(this.root);
    this.known = new Map();
    this.events = [];
    this.subject = null;
    new ResizeObserver(() => page.due()).observe(this.place);
  }

  /** Decisions have fallen: tries in vain flash at the endpoint that was tried, clients that were lost at the Service. */
  happened(decisions) {
    for (const item of decisions) {
      if (item.verdict === "retried") this.events.push(...item.tried.map((each) => ({ where: `endpoint ${each.endpoint}`, time: this.store.time, text: each.reason })));
      else if (item.verdict !== "served") this.events.push({ where: item.endpoint === null ? "service" : `endpoint ${item.endpoint}`, time: this.store.time, text: item.verdict });
    }
    const recent = new Map();
    for (const each of this.events.filter((event) => !event.shown)) {
      each.shown = true;
      recent.set(each.where, (recent.get(each.where) ?? 0) + 1);
    }
    for (const [where, times] of recent) this.burst(where, times);
  }

  burst(where, times) {
    const node = this.placed?.nodes.find((each) => each.key === where) ?? this.placed?.nodes.find((each) => each.key === "endpoint ");
    if (node === undefined) return;
    const sign = drawn("text", { class: "burst", x: node.x + node.toward * 24, y: node.y + 5, "text-anchor": "middle" });
    sign.textContent = times === 1 ? "✕" : `✕${times}`;
    this.bursts.append(sign);
    setTimeout(() => sign.remove(), BURST_MILLISECONDS);
  }

  show() {
    const { detail } = this.store;
    this.place.hidden = this.page.subject === null;
    if (this.page.subject !== this.subject) this.turn();
    if (detail === null || this.place.hidden || this.place.clientWidth === 0) return;
    this.events = this.events.filter((each) => each.time > this.store.time - MINUTE);
    const row = this.store.services.get(this.page.subject);
    const found = flow(detail, row, this.page.measure, (where) => this.events.filter((each) => each.where === where).length, (endpoint) => this.steered(endpoint));
    this.placed = layout(found, this.place.clientWidth, (width) => this.scaled(width, found.total));
    mark(this.root, "viewBox", `0 0 ${this.placed.width} ${this.placed.height}`);
    mark(this.root, "width", this.placed.width);
    mark(this.root, "height", this.placed.height);
    mark(this.root, "aria-label", this.summary(found));
    this.drawAll();
  }

  /** The faults that clients of an endpoint are made to suffer, and how long it is drained, if it is. */
  steered(endpoint) {
    const { faults, drains, time } = this.store;
    const drain = drainOf(drains, this.subject, endpoint);
    return { faults: faultsOf(faults, this.subject, endpoint).map((each) => faultText(each, time)), drain: drain === undefined ? "" : endOf(drain, time) };
  }

  turn() {
    this.subject = this.page.subject;
    this.events = [];
    this.known.clear();
    for (const group of [this.lines, this.nodes, this.bursts]) group.replaceChildren();
  }

  /** The width of a line with this rate. */
  scaled(value, total) {
    const series = this.store.history.get(this.page.subject);
    const past = series?.[this.page.measure === "bytes" ? "moved" : "opened"] ?? [];
    const most = Math.max(total, ...past);
    return most > 0 ? Math.max(1.5, (WIDEST * value) / most) : 1.5;
  }

  drawAll() {
    const seen = new Set();
    for (const line of this.placed.lines) seen.add(this.drawLine(line));
    for (const head of this.placed.heads) seen.add(this.drawHead(head));
    for (const node of this.placed.nodes) seen.add(this.drawNode(node));
    for (const [key, made] of this.known) {
      if (seen.has(key)) continue;
      made.remove();
      this.known.delete(key);
    }
  }

  drawLine(line) {
    const key = `line ${line.key}`;
    const made = this.had(key, () => drawn("path", {}), this.lines);
    mark(made, "d", line.path);
    mark(made, "class", `flow ${line.state} ${line.rate > 0 ? "moving" : line.active > 0 ? "open" : "idle"}`);
    made.style.strokeWidth = `${line.width}px`;
    mark(made, "data-line", line.key);
    mark(made, "data-rate", line.rate);
    return key;
  }

  drawHead(head) {
    const key = `head ${head.text}`;
    const made = this.had(key, () => drawn("text", { class: "column" }), this.nodes);
    mark(made, "x", head.x);
    mark(made, "y", head.y);
    mark(made, "text-anchor", head.anchor);
    say(made, head.text);
    return key;
  }

  drawNode(node) {
    const key = `node ${node.key}`;
    const made = this.had(key, () => drawn("g", {}, drawn("rect", { rx: 3 }), drawn("text", { class: "sign" }), drawn("text", { class: "title" }), drawn("text", { class: "note" })), this.nodes);
    const [bar, sign, title, note] = made.children;
    mark(made, "class", `node ${node.kind} ${node.state}`);
    for (const [name, value] of Object.entries({ x: node.x - 3, y: node.y - node.height / 2, width: 6, height: node.height })) mark(bar, name, value);
    place(sign, node.sign);
    place(title, node.title);
    place(note, node.note);
    return key;
  }

  had(key, make, group) {
    let made = this.known.get(key);
    if (made === undefined) {
      made = make();
      this.known.set(key, made);
      group.append(made);
    }
    return made;
  }

  /** The picture in words, for those who hear the page; the table below has all of it. */
  summary(found) {
    const form = this.page.measure === "bytes" ? (value) => `${bytes(value)} a second` : (value) => `${rate(value)} connections a second`;
    const used = found.endpoints.filter((each) => each.state === "good").length;
    const bad = found.endpoints.filter((each) => each.state !== "good").map((each) => `${each.name}: ${each.words}`);
    return [
      `${form(found.total)} from ${counted(found.clientCount, "client")} by ${counted(found.portals.length, "portal")} to ${counted(found.endpoints.length, "endpoint")}, of which ${used} in order.`,
      ...bad,
    ].join(" ");
  }
}

function place(text, at) {
  mark(text, "x", at.x);
  mark(text, "y", at.y);
  mark(text, "text-anchor", at.anchor);
  say(text, at.text);
}

