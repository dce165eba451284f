// What became of clients, as it happens.

import { byId, element, mark, say } from "./dom.js";
import { bytes, count, latency, moment } from "./figures.js";
import { Grid } from "./grid.js";

const SIGNS = {
  served: ["●", "good"],
  retried: ["▲", "warn"],
  refused: ["✕", "bad"],
  dropped: ["✕", "bad"],
  reset: ["✕", "bad"],
  "timed-out": ["✕", "bad"],
};

export class Decisions {
  constructor(store, page) {
    this.store = store;
    this.page = page;
    this.served = byId("decisions-served");
    this.served.checked = localStorage.getItem("served") === "true";
    this.served.addEventListener("change", () => {
      localStorage.setItem("served", String(this.served.checked));
      page.ask();
    });
    this.grid = new Grid(byId("decisions-grid"), {
      label: "Decisions, the newest first",
      key: (row) => String(row.order),
      sortable: false,
      empty: () => this.empty(),
      columns: [
        { name: "time", title: "time", write: (cell, row) => say(cell, moment(row.time)) },
        { name: "verdict", title: "verdict", write: writeVerdict },
        { name: "way", title: "client → Service → endpoint", write: (cell, row) => titled(cell, way(row, page.subject === null)) },
        { name: "why", title: "why", write: (cell, row) => titled(cell, why(row)) },
      ],
    });
  }

  show() {
    const rows = this.served.checked ? this.store.decisions : this.store.decisions.filter((row) => row.verdict !== "served");
    this.grid.show(rows);
    say(byId("decisions-count"), rows.length > 0 ? `newest ${count(rows.length)}` : "");
  }

  empty() {
    if (this.store.number === 0) return "";
    return this.served.checked ? "Nothing has been decided yet." : "No client was refused, reset or tried again.";
  }
}

function titled(cell, text) {
  say(cell, text);
  mark(cell, "title", text);
}

function writeVerdict(cell, row) {
  const [glyph, state] = SIGNS[row.verdict] ?? ["?", "off"];
  if (cell.firstChild === null) cell.append(element("span", { className: "glyph", "aria-hidden": "true" }), element("span"));
  mark(cell, "data-state", state);
  say(cell.firstChild, glyph);
  say(cell.lastChild, row.verdict);
}

function way(row, named) {
  const service = named ? ` → ${row.service}${row.port ? `:${row.port}` : ""}` : "";
  return `${row.client}${service} → ${row.endpoint ?? "none"}`;
}

function why(row) {
  const tried = row.tried.map((each) => `tried ${each.endpoint}: ${each.reason}`);
  const moved = row.bytes_up + row.bytes_down > 0 ? [`${bytes(row.bytes_up)} up, ${bytes(row.bytes_down)} down`] : [];
  const reason = row.tried.some((each) => each.reason === row.reason) ? "" : row.reason;
  return [reason, ...tried, latency(row.duration_seconds), ...moved].filter(Boolean).join("; ");
}
