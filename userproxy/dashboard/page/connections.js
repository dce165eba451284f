// The connections and flows that there are: of one service port, or of all.

import { byId, element, mark, say } from "./dom.js";
import { age, bytes, count } from "./figures.js";
import { Grid, figure } from "./grid.js";

export class Connections {
  constructor(store, page) {
    this.store = store;
    this.page = page;
    this.filter = byId("connections-filter");
    this.filter.addEventListener("input", () => this.show());
    this.grid = new Grid(byId("connections-grid"), {
      label: "Connections",
      key: (row) => String(row.id),
      sort: "rate",
      descending: true,
      choose: (row) => page.control("connection", row),
      empty: () => this.empty(),
      rowClass: (row) => row.state,
      columns: this.columns(),
    });
  }

  columns() {
    const text = (name, title, value, hint, more = () => "") => ({
      name,
      title,
      hint,
      value,
      write: (cell, row) => {
        say(cell, value(row));
        mark(cell, "title", [value(row), more(row)].filter(Boolean).join(": "));
      },
    });
    const now = () => this.store.time;
    return [
      text("client", "client", (row) => row.client),
      text("portal", "portal", (row) => row.portal ?? "?"),
      { name: "owner", title: "Service", value: ownerOf, write: writeOwner },
      text("endpoint", "endpoint", (row) => row.endpoint ?? "none yet"),
      text("stage", "state", (row) => `${row.state}${row.protocol === "TCP" ? "" : ` ${row.protocol}`}${row.faults ? " ⚡" : ""}`, "With ⚡ it suffers a fault", (row) => row.faults),
      figure("age", "age", (row) => now() - row.began, age),
      figure("idle", "idle", (row) => now() - row.quiet_since, age, "Since the client has last said or been told something"),
      figure("rate", "bytes/s", (row) => row.up_rate + row.down_rate, bytes, "Both directions together"),
      figure("up", "up", (row) => row.bytes_up, bytes, "Bytes from the client"),
      figure("down", "down", (row) => row.bytes_down, bytes, "Bytes to the client"),
      figure("retries", "retries", (row) => row.retries, count, "Endpoints that were given up before this one"),
    ];
  }

  show() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...this.store.connections.values()];
    const shown = words.length === 0 ? rows : rows.filter((row) => matches(row, words));
    this.grid.show(shown);
    say(byId("connections-count"), shown.length === rows.length ? count(rows.length) : `${count(shown.length)} of ${count(rows.length)}`);
  }

  empty() {
    if (this.store.number === 0) return "";
    if (this.store.connections.size > 0) return "No connection is like that. Words are looked for in addresses, names and states.";
    return this.page.subject === null ? "No client is connected." : "No client is connected to this Service.";
  }
}

function ownerOf(row) {
  return `${row.service}${row.port ? `:${row.port}` : ""}`;
}

/** Of a name that is too long the namespace gives way first. */
function writeOwner(cell, row) {
  if (cell.firstChild === null) cell.append(element("span", { className: "namespace" }), element("span", { className: "service" }));
  const slash = row.service.indexOf("/") + 1;
  say(cell.firstChild, row.service.slice(0, slash));
  say(cell.lastChild, ownerOf(row).slice(slash));
  mark(cell, "title", ownerOf(row));
}

function matches(row, words) {
  const text = `${row.client} ${row.portal ?? ""} ${row.service}:${row.port} ${row.endpoint ?? ""} ${row.state} ${row.protocol} ${row.faults}`.toLowerCase();
  return words.every((word) => text.includes(word));
}
