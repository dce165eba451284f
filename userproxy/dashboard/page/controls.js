// What can be done with an endpoint or a connection: a dialog that says all about it, and asks before it changes anything.

import { byId, element, mark, say } from "./dom.js";
import { endpointState } from "./endpoints.js";
import { faultForm } from "./fault_form.js";
import { drainOf, endOf, faultsOf, faultText } from "./faults.js";
import { age, bytes, counted, latency, moment } from "./figures.js";

const MINUTE = 60;
const LASTS = [[5 * MINUTE, "5 minutes"], [10 * MINUTE, "10 minutes"], [60 * MINUTE, "1 hour"], ["", "until it is ended"]];
const CLOSES = [["", "never"], [30, "after 30 s"], [MINUTE, "after 1 minute"], [5 * MINUTE, "after 5 minutes"]];

export class Controls {
  constructor(store) {
    this.store = store;
    this.dialog = byId("control");
    this.subject = null;
    this.row = null;
    this.kind = "";
    this.shown = {};
    this.drains = null;
    this.list = null;
  }

  /** The names of the changes that the proxy allows. */
  get allowed() {
    const names = this.store.status?.controls ?? [];
    return new Set(names.filter((name) => name !== "capture"));
  }

  /** Show an endpoint of the service port `subject`, or a connection. */
  open(kind, row, subject) {
    Object.assign(this, { kind, row, subject, shown: {}, drains: null, list: null });
    this.answer = element("p", { className: "answer", role: "status" });
    this.facts = element("dl", { className: "facts" });
    this.state = element("div", { className: "steered" });
    this.dialog.replaceChildren(
      element(
        "div",
        { className: "panel-head" },
        element("h2", { id: "control-title" }, kind === "endpoint" ? `Endpoint ${row.endpoint}` : `Connection of ${row.client}`),
        element("button", { type: "button", className: "quiet", onclick: () => this.dialog.close() }, "Close"),
      ),
      element("div", { className: "control-body" }, this.facts, this.state, ...this.sections(), this.answer),
    );
    this.show();
    this.dialog.showModal();
  }

  sections() {
    const { allowed } = this;
    if (allowed.size === 0) return [element("p", { className: "hint" }, "Nothing can be changed here: this userproxy allows no changes.")];
    const found = [];
    if (this.kind === "endpoint" && allowed.has("drains")) found.push(this.drainSection());
    if (allowed.has("close")) found.push(this.closeSection());
    if (this.kind === "endpoint") found.push(allowed.has("faults") ? this.faultSection() : element("p", { className: "hint" }, "Faults can be set where userproxy was started with --allow-faults."));
    return found;
  }

  /** Keep what is shown up to date while the dialog is open. */
  show() {
    if (this.row === null) return;
    this.row = this.newest() ?? this.row;
    const facts = this.kind === "endpoint" ? endpointFacts(this.row) : connectionFacts(this.row, this.store.time);
    const drain = this.kind === "endpoint" ? this.drain() : undefined;
    const faults = this.kind === "endpoint" ? this.faults() : [];
    if (this.drains) [this.drains.begin.hidden, this.drains.end.hidden] = [drain !== undefined, drain === undefined];
    if (this.drains) say(this.drains.text, drain === undefined ? "" : `◐ Drained since ${moment(drain.since).slice(0, 8)}, ${endOf(drain, this.store.time)}.`);
    if (this.differs("facts", facts)) this.facts.replaceChildren(...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    if (this.differs("faults", faults)) this.list?.replaceChildren(...faults.map((fault) => this.faultRow(fault)));
  }

  /** Whether something is not as it was shown last: what is as it was is left alone, with any question that stands there. */
  differs(name, value) {
    const text = JSON.stringify(value);
    const isOld = this.shown[name] === text;
    this.shown[name] = text;
    return !isOld;
  }

  newest() {
    if (this.kind === "connection") return this.store.connections.get(this.row.id);
    return this.store.detail?.endpoints.find((each) => each.endpoint === this.row.endpoint);
  }

  get service() {
    const [namespace, name] = this.kind === "connection" ? this.row.service.split("/") : this.subject.split("/");
    return { namespace, name, text: `${namespace}/${name}` };
  }

  drain() {
    return drainOf(this.store.drains, this.subject, this.row.endpoint);
  }

  faults() {
    return faultsOf(this.store.faults, this.subject, this.row.endpoint);
  }

  drainSection() {
    const lasts = select("drain-lasts", LASTS, 1);
    const closes = select("drain-closes", CLOSES, 0);
    const begin = element(
      "div",
      { className: "fields" },
      element("label", {}, "for ", lasts),
      element("label", {}, "close what is left ", closes),
      this.asking("Drain", () => `Give no new clients to ${this.row.endpoint} while another endpoint is usable?`, () =>
        this.change("POST", "drains", {}, { service: this.service.text, endpoint: this.row.endpoint, for_seconds: number(lasts.value), close_after_seconds: number(closes.value) }, (drain) => `No new clients come to ${drain.endpoint}.`),
      ),
    );
    const end = element("div", { className: "fields" }, this.asking("End the drain", () => `Let ${this.row.endpoint} have new clients again?`, () =>
      this.change("DELETE", "drains", { namespace: this.service.namespace, service: this.service.name, endpoint: this.row.endpoint }, null, () => `${this.row.endpoint} gets new clients again.`)));
    const text = element("p", { className: "hint" });
    this.drains = { begin, end, text };
    return section("Drain", "No new clients while another endpoint is usable; those that there are stay.", text, begin, end);
  }

  closeSection() {
    const { namespace, name, text } = this.service;
    const { endpoint } = this.row;
    const buttons = this.kind === "endpoint" ? [] : [this.closing("Close this connection", `the connection of ${this.row.client}`, { id: this.row.id })];
    if (this.kind === "connection") {
      const client = this.row.client.replace(/:\d+$/, "").replace(/[[\]]/g, "");
      const whose = `all connections of ${client} to ${endpoint ?? text}`;
      buttons.push(this.closing("Close all of this client", whose, { namespace, service: name, client, ...(endpoint ? { endpoint } : {}) }));
    } else buttons.push(this.closing("Close connections", `all connections to ${endpoint}`, { namespace, service: name, endpoint }));
    const what = this.kind === "connection" ? "Resets this connection, or all of its client to the same endpoint." : `Resets all connections of ${text} to ${endpoint}.`;
    return section("Close", what, element("div", { className: "fields" }, ...buttons));
  }

  closing(title, whose, query) {
    return this.asking(title, () => `Reset ${whose}? ${query.id ? "The client sees" : "Clients see"} an error.`, () =>
      this.change("DELETE", "connections", query, null, ({ closed }) => (closed === 0 ? "It had ended already." : `${counted(closed, "connection was", "connections were")} closed.`)),
    );
  }

  faultSection() {
    this.list = element("ul", { className: "faults" });
    const [, , port] = this.subject.split("/");
    const protocol = this.subject.split("/").at(-1);
    const form = faultForm(protocol);
    const ask = this.asking("Set the fault", () => `Have clients of ${this.row.endpoint} suffer this: ${form.words()}?`, () =>
      this.change("POST", "faults", {}, { ...form.request(), service: this.service.text, port: port || null, endpoint: this.row.endpoint }, (fault) => `The fault is set: ${fault.text}.`),
    );
    form.root.append(ask);
    return section("Fault", "What clients of this endpoint suffer, for a while.", this.list, form.root);
  }

  faultRow(fault) {
    const text = `${fault.text}${fault.client ? `, clients ${fault.client}` : ""}, until ${moment(fault.until).slice(0, 8)} `;
    return element("li", {}, `⚡ ${text}`, this.asking("Clear", () => "End this fault?", () => this.change("DELETE", "faults", { id: String(fault.id) }, null, () => "The fault has ended.")));
  }

  /** A button that asks before it acts: it gives way to a question, and comes back afterwards. */
  asking(title, question, act) {
    const place = element("span", { className: "asking" });
    const button = element("button", { type: "button" }, title);
    button.addEventListener("click", () => {
      const yes = element("button", { type: "button", className: "primary" }, title);
      const no = element("button", { type: "button" }, "Leave it");
      const back = () => {
        place.replaceChildren(button);
        button.focus();
      };
      no.addEventListener("click", back);
      yes.addEventListener("click", async () => {
        yes.disabled = true;
        await act();
        back();
      });
      place.replaceChildren(element("span", { className: "question", role: "alert" }, question()), yes, no);
      yes.focus();
    });
    place.append(button);
    return place;
  }

  /** Ask the proxy for a change, and say what came of it. */
  async change(method, route, query, body, said) {
    mark(this.answer, "data-state", null);
    say(this.answer, "…");
    let state = "bad";
    let text = "The dashboard does not answer.";
    try {
      const answer = await fetch(`/${route}?${new URLSearchParams(query)}`, {
        method,
        headers: { "Content-Type": "application/json" },
        body: body === null ? undefined : JSON.stringify(Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null))),
      });
      const found = await answer.json();
      [state, text] = answer.ok ? ["good", `● ${said(found)}`] : ["bad", `✕ Not done: ${found.error}.`];
    } catch {
      // What is said then is the sentence above.
    }
    mark(this.answer, "data-state", state);
    say(this.answer, text);
  }
}

function section(title, text, ...children) {
  return element("section", {}, element("h3", {}, title), element("p", { className: "hint" }, text), ...children);
}

/** A choice among pairs of value and words. */
export function select(name, options, chosen) {
  return element("select", { name }, ...options.map(([value, words], place) => element("option", { value, selected: place === chosen }, words)));
}

function number(text) {
  return text === "" ? null : Number(text);
}

function endpointFacts(row) {
  return [
    ["state", `${endpointState(row).glyph} ${row.reason || endpointState(row).text}`],
    ["node, zone", [row.node ?? "–", row.zone ?? "–"].join(", ")],
    ["conditions", ["ready", "serving", "terminating"].filter((name) => row[name]).join(", ") || "none"],
    ["connections", `${row.active} active, ${row.total} in all, ${row.failed} dials failed`],
    ["bytes", `${bytes(row.bytes_up)} up, ${bytes(row.bytes_down)} down`],
    ["dials", `half within ${latency(row.dial_p50_seconds)}, 99 % within ${latency(row.dial_p99_seconds)}`],
  ];
}

function connectionFacts(row, now) {
  return [
    ["Service", `${row.service}${row.port ? `:${row.port}` : ""}, ${row.protocol}`],
    ["way", `${row.client} → ${row.portal ?? "?"} → ${row.endpoint ?? "none yet"}`],
    ["endpoint sees", row.source_address === null ? "–" : `${row.source_address} (the ${row.source}'s address)`],
    ["state", `${row.state}, for ${age(now - row.began)}, quiet for ${age(now - row.quiet_since)}`],
    ["bytes", `${bytes(row.bytes_up)} up, ${bytes(row.bytes_down)} down`],
    ["dial", `${latency(row.dial_seconds)}, ${counted(row.retries, "endpoint")} given up before`],
    ["faults", row.faults ? `⚡ ${row.faults}` : "none"],
  ];
}
