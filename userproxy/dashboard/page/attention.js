// What somebody should know of now, the worst first: one line for each thing, and the Service that it is about.

import { endOf, faultText } from "./faults.js";
import { counted } from "./figures.js";
import { complaints } from "./health.js";
import { RANKS } from "./service_state.js";
import { serviceName } from "./store.js";

const MOST_PROBLEMS = 20;
const STEERED = 1.5;
/** Where what was asked for stands: after what goes wrong by itself. */

/**
 * The lines, each with `id`, `state`, `glyph`, `title`, `text`, and a `key` of a service port; null for what is about the
 * whole node.
 */
export function attention(store) {
  if (store.status === null) return [];
  const keys = new Map();
  for (const row of store.services.values()) if (!keys.has(ownerOf(row))) keys.set(ownerOf(row), row.key);
  const found = [...problems(store, keys), ...services(store), ...steered(store, keys)];
  return found.sort((one, other) => one.rank - other.rank || (one.title < other.title ? -1 : 1));
}

function problems(store, keys) {
  const whole = complaints({ status: store.status, problems: [] }).map((text) => line(`problem ${text}`, RANKS.bad, "bad", "✕", "userproxy", text, null));
  const lines = store.problems.slice(0, MOST_PROBLEMS).map(({ service, text }) =>
    line(`problem ${text}`, RANKS.warn, "warn", "▲", service ?? "userproxy", text, keys.get(service) ?? null),
  );
  const more = store.problems.length - lines.length;
  if (more > 0) lines.push(line("problems", RANKS.warn, "warn", "▲", "userproxy", `and ${counted(more, "more problem")}: see Sync and health`, null));
  return whole.concat(lines);
}

/** Service ports in trouble; of endpoints that are ejected a problem tells already, and says why. */
function services(store) {
  const told = new Set(store.problems.map((each) => each.service));
  const found = [];
  for (const row of store.services.values()) {
    const state = store.stateOf(row);
    if (state.name !== "bad" && (state.name !== "warn" || (row.ejected > 0 && told.has(ownerOf(row))))) continue;
    found.push(line(row.key, RANKS[state.name], state.name, state.glyph, serviceName(row), state.text, row.key));
  }
  return found;
}

function steered(store, keys) {
  const about = (each) => `${each.service}${each.endpoint ? ` → ${each.endpoint}` : ""}`;
  return [
    ...store.faults.map((each) => line(`fault ${each.id}`, STEERED, "warn", "⚡", about(each), faultText(each, store.time), keys.get(each.service) ?? null)),
    ...store.drains.map((each) => line(`drain ${about(each)}`, STEERED, "off", "◐", about(each), `drained, ${endOf(each, store.time)}`, keys.get(each.service) ?? null)),
  ];
}

function ownerOf(row) {
  return `${row.namespace}/${row.name}`;
}

function line(id, rank, state, glyph, title, text, key) {
  return { id, rank, state, glyph, title, text, key };
}
