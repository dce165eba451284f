// The endpoints of one service port: how each is, and why one is not used.

import { byId, element, mark, say } from "./dom.js";
import { drainOf, endOf, faultsOf, faultText } from "./faults.js";
import { bytes, count, latency, rate } from "./figures.js";
import { Grid } from "./grid.js";

/** How an endpoint is: a name, a sign, and words. */
export function endpointState(row) {
  if (/drained/.test(row.reason)) return { name: "off", glyph: "◐", text: "draining" };
  if (!row.usable) return { name: "off", glyph: "○", text: row.terminating ? "terminating" : "not used" };
  if (/ejected/.test(row.reason)) return { name: "bad", glyph: "✕", text: "ejected" };
  if (/passed over/.test(row.reason)) return { name: "bad", glyph: "✕", text: "passed over" };
  if (row.failed_rate > 0) return { name: "warn", glyph: "▲", text: "dials fail" };
  if (row.reason) return { name: "warn", glyph: "▲", text: "for some clients" };
  return { name: "good", glyph: "●", text: "in use" };
}

export class Endpoints {
  constructor(store, page) {
    this.store = store;
    this.page = page;
    this.place = byId("endpoints");
    const figure = (name, title, value, form, hint) => ({
      name,
      title,
      hint,
      value: (row) => value(row) ?? -1,
      first: "greatest",
      write: (cell, row) => {
        say(cell, form(value(row)));
        mark(cell, "data-zero", value(row) === 0);
      },
    });
    this.grid = new Grid(byId("endpoints-grid"), {
      label: "Endpoints",
      key: (row) => row.key,
      sort: "endpoint",
      choose: (row) => page.control("endpoint", row),
      empty: () => "This Service has no endpoints: no EndpointSlice names any.",
      rowClass: (row) => endpointState(row).name,
      columns: [
        { name: "endpoint", title: "endpoint", value: (row) => row.endpoint, write: (cell, row) => say(cell, row.endpoint) },
        { name: "condition", title: "state", value: (row) => endpointState(row).name, write: (cell, row) => writeState(cell, row, this.words(row)) },
        figure("opened", "conn/s", (row) => row.opened_rate, rate, "Connections and flows that begin, a second"),
        figure("active", "active", (row) => row.active, count),
        figure("up", "up/s", (row) => row.up_rate, bytes),
        figure("down", "down/s", (row) => row.down_rate, bytes),
        figure("failed", "failed", (row) => row.failed, count, "Dials that failed, in all"),
        figure("median", "dial p50", (row) => row.dial_p50_seconds, latency),
        figure("worst", "p99", (row) => row.dial_p99_seconds, latency),
        { name: "where", title: "node", value: (row) => row.node ?? "", write: (cell, row) => say(cell, row.node ?? "–") },
      ],
    });
  }

  /** Why it is as it is, and what was asked for, with the time that it has left. */
  words(row) {
    const { faults, drains, time } = this.store;
    const drain = drainOf(drains, this.page.subject, row.endpoint);
    const reason = drain === undefined ? row.reason || endpointState(row).text : `drained, ${endOf(drain, time)}`;
    return [...faultsOf(faults, this.page.subject, row.endpoint).map((each) => `⚡ ${faultText(each, time)}`), reason].join("; ");
  }

  show() {
    const { detail } = this.store;
    this.place.hidden = detail === null;
    if (detail === null) return;
    this.grid.show(detail.endpoints);
    mark(this.place, "data-few", detail.endpoints.length <= 6);
  }
}

function writeState(cell, row, text) {
  const state = endpointState(row);
  if (cell.firstChild === null) cell.append(element("span", { className: "glyph", "aria-hidden": "true" }), element("span"));
  mark(cell, "data-state", state.name);
  mark(cell, "title", text);
  say(cell.firstChild, state.glyph);
  say(cell.lastChild, text);
}
