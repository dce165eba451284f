// The list of service ports, with their rates.

import { byId, element, mark, say } from "./dom.js";
import { bytes, count, rate } from "./figures.js";
import { Grid, figure } from "./grid.js";
import { RANKS } from "./service_state.js";
import { draw, sparkline } from "./sparkline.js";
import { serviceName } from "./store.js";

const WIDTH = 88;
const HEIGHT = 20;

export class Services {
  constructor(store, page) {
    this.store = store;
    this.page = page;
    this.filter = byId("services-filter");
    this.filter.addEventListener("input", () => this.show());
    this.grid = new Grid(byId("services-grid"), {
      label: "Services",
      key: (row) => row.key,
      sort: "state",
      choose: (row) => page.choose(row.key),
      empty: () => this.empty(),
      rowClass: (row) => this.stateOf(row).name,
      columns: this.columns(),
    });
  }

  columns() {
    return [
      { name: "state", title: "!", label: "State", hint: "The worst first", value: (row) => RANKS[this.stateOf(row).name], write: (cell, row) => writeState(cell, this.stateOf(row)) },
      { name: "service", title: "Service", value: serviceName, write: writeName },
      { name: "spark", title: "2 min", write: (cell, row) => this.writeSpark(cell, row) },
      figure("opened", "conn/s", (row) => row.opened_rate, rate, "Connections and flows that begin, a second"),
      figure("active", "active", (row) => row.active, count, "Connections and flows that there are now"),
      figure("rate", "bytes/s", (row) => row.up_rate + row.down_rate, bytes, "Bytes a second, both directions together"),
      figure("errors", "err/s", (row) => row.failed_rate + row.retried_rate, rate, "Clients not served, or only after a retry, a second"),
      {
        name: "usable",
        title: "endp.",
        hint: "Endpoints that can be used, of all",
        value: (row) => row.endpoints.usable / Math.max(1, row.endpoints.all),
        write: (cell, row) => say(cell, `${row.endpoints.usable}/${row.endpoints.all}`),
      },
    ];
  }

  stateOf(row) {
    return this.store.stateOf(row);
  }

  writeSpark(cell, row) {
    if (cell.firstChild === null) cell.append(sparkline(WIDTH, HEIGHT));
    const series = this.store.history.get(row.key);
    draw(cell.firstChild, series?.[this.page.measure === "bytes" ? "moved" : "opened"] ?? [], WIDTH, HEIGHT, series?.failed);
  }

  show() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...this.store.services.values()];
    const shown = words.length === 0 ? rows : rows.filter((row) => matches(row, words, this.stateOf(row).text));
    this.grid.chosen = this.page.subject;
    this.grid.show(shown);
    say(byId("services-count"), shown.length === rows.length ? count(rows.length) : `${count(shown.length)} of ${count(rows.length)}`);
  }

  empty() {
    if (this.store.number === 0) return "Nothing has been heard of the proxy yet.";
    if (this.store.services.size > 0) return "No Service is called like that.";
    return "The proxy serves no Services: none is known to it, or none is for it (--service-proxy-name).";
  }
}

function matches(row, words, state) {
  const text = `${serviceName(row)} ${row.protocol} ${row.portals.join(" ")} ${state}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

function writeState(cell, state) {
  if (cell.firstChild === null) {
    cell.append(element("span", { className: "glyph", "aria-hidden": "true" }), element("span", { className: "unseen" }));
  }
  mark(cell, "data-state", state.name);
  mark(cell, "title", state.text);
  say(cell.firstChild, state.glyph);
  say(cell.lastChild, state.text);
}

function writeName(cell, row) {
  if (cell.firstChild === null) {
    cell.append(element("span", { className: "namespace" }), element("span", { className: "name" }), element("span", { className: "port" }));
  }
  const [namespace, name, port] = cell.children;
  say(namespace, `${row.namespace}/`);
  say(name, row.name);
  say(port, `${row.port ? `:${row.port}` : ""}${row.protocol === "TCP" ? "" : ` ${row.protocol}`}`);
  mark(cell, "title", serviceName(row));
}
