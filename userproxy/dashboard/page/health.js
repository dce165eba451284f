// Whether everything is as it should be: a button in the page's head, and a dialog with all of it.

import { byId, element, mark, say } from "./dom.js";
import { age, count, latency } from "./figures.js";

const SLOW_LOOP_SECONDS = 1;
const FEW_DESCRIPTORS = 0.9;

/** A sentence for each thing that is wrong. */
export function complaints({ status, problems }) {
  const because = (item) => (item.reason ? `: ${item.reason}` : "");
  const found = [];
  for (const family of status.families) {
    if (family.served && !family.in_sync) found.push(`${family.family}: portals are not in sync${because(family)}`);
  }
  for (const watch of status.watches) {
    if (!watch.synced) found.push(`${watch.resource}: the source does not tell of changes${because(watch)}`);
  }
  for (const each of status.processes) {
    if (each.descriptors >= FEW_DESCRIPTORS * each.descriptor_limit) {
      found.push(`Process ${each.pid} has ${count(each.descriptors)} of ${count(each.descriptor_limit)} descriptors in use`);
    }
    if (each.loop_lag_seconds >= SLOW_LOOP_SECONDS) {
      found.push(`Process ${each.pid} has kept clients waiting for ${latency(each.loop_lag_seconds)}`);
    }
  }
  if (!status.healthy) found.push("/healthz answers 503: load balancers send their clients to other nodes");
  return found.concat(problems.map((each) => each.text));
}

export class Health {
  constructor(store) {
    this.store = store;
    this.button = byId("health-button");
    this.dialog = byId("health");
    this.shown = "";
    this.button.addEventListener("click", () => {
      this.dialog.showModal();
      this.fill();
    });
    byId("health-close").addEventListener("click", () => this.dialog.close());
  }

  /** `broken` is what is wrong between here and the proxy, if anything. */
  show(broken) {
    const { status } = this.store;
    const [glyph, words] = this.button.children;
    const found = status === null ? [] : complaints(this.store);
    const state = broken ? "bad" : status === null ? "off" : found.length > 0 ? "warn" : "good";
    const text = broken || (status === null ? "Connecting" : found.length === 0 ? "All is well" : found.length === 1 ? "1 problem" : `${found.length} problems`);
    mark(this.button, "data-state", state);
    say(glyph, { bad: "✕", warn: "▲", good: "●", off: "…" }[state]);
    say(words, text);
    say(byId("node"), status === null ? "" : status.node);
    const title = status === null ? "userproxy" : `${signs(broken, this.store.badCount)}${status.node} · userproxy`;
    if (document.title !== title) document.title = title;
    if (this.dialog.open) this.fill();
  }

  fill() {
    const { status } = this.store;
    const known = JSON.stringify([status, this.store.problems]);
    if (known === this.shown || status === null) return;
    this.shown = known;
    const found = complaints(this.store);
    byId("health-body").replaceChildren(
      element("p", {}, `userproxy ${status.version} on ${status.node}, Services from ${status.source}`),
      found.length === 0
        ? element("p", { className: "well" }, "● All is well.")
        : element("ul", { className: "complaints" }, ...found.map((text) => element("li", {}, text))),
      table("Address families", ["family", "driver", "state", "since", "waiting"], status.families.map(familyRow)),
      table("Watches of the source", ["resource", "state", "last event"], status.watches.map(watchRow)),
      table("Processes", ["process", "role", "loop lag", "descriptors", "connections", "flows", "pipes", "restarts"], status.processes.map(processRow)),
    );
  }
}

/** What the title of a tab that nobody looks at begins with: whether something is broken, and how many Services are. */
function signs(broken, bad) {
  if (broken) return "✕ ";
  return bad > 0 ? `✕ ${bad} · ` : "";
}

function familyRow(item) {
  const state = !item.served ? "○ not served" : item.in_sync ? "● in sync" : "▲ not in sync";
  const since = item.since ? new Date(item.since).toLocaleTimeString("en-GB") : "–";
  return [item.family, item.driver, item.reason ? `${state}: ${item.reason}` : state, since, count(item.pending_services + item.pending_endpoint_slices)];
}

function watchRow(item) {
  const state = item.synced ? "● synced" : "▲ not synced";
  return [item.resource, item.reason ? `${state}: ${item.reason}` : state, item.last_event_age_seconds === null ? "–" : `${age(item.last_event_age_seconds)} ago`];
}

function processRow(item) {
  return [
    item.pid,
    item.role || "all",
    latency(item.loop_lag_seconds),
    `${count(item.descriptors)}/${count(item.descriptor_limit)}`,
    count(item.connections),
    count(item.flows),
    count(item.pipes),
    count(item.restarts),
  ];
}

function table(caption, heads, rows) {
  return element(
    "div",
    { className: "scrolls", tabIndex: 0, role: "group", "aria-label": caption },
    element(
      "table",
      {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells.map((text) => element("td", {}, String(text)))))),
    ),
  );
}
