// What flows through one service port, as nodes and rates: made of its detail, without a place in the picture yet.

import { endpointState } from "./endpoints.js";
import { bytes, counted, rate } from "./figures.js";

const MOST_ENDPOINTS = 14;
const MOST_PORTALS = 8;
const ANYWHERE = /^(0\.0\.0\.0|\[::\]):/;

/**
 * Clients, portals and endpoints with their rates, and the paths between the first two. `happened(where)` counts what went
 * wrong there within the last minute, `steered(endpoint)` says by which faults its clients are made to suffer, and how
 * long it is drained.
 */
export function flow(detail, row, measure, happened, steered) {
  const value = measure === "bytes" ? (each) => each.up_rate + each.down_rate : (each) => each.opened_rate;
  const form = measure === "bytes" ? (number) => `${bytes(number)}/s` : (number) => `${rate(number)}/s`;
  const figures = (each) => `${form(each.rate)} · ${each.active} active`;
  const paths = detail.paths.map((each) => ({ ...each, rate: value(each), to: portalOf(each, detail.portals) }));
  const clients = summed(paths, (each) => each.client, (each) => ({ name: each.client || `${counted(each.clients, "other client")}` }));
  const endpoints = few(detail.endpoints.map((each) => endpoint(each, value, figures, happened, steered(each.endpoint))));
  return {
    total: row === undefined ? 0 : value(row),
    active: row === undefined ? 0 : row.active,
    service: { name: row === undefined ? "" : row.name, note: row === undefined ? "" : [form(value(row)), ...kept(row)].join(" · "), lost: happened("service"), isKept: row !== undefined && kept(row).length > 0 },
    clientCount: detail.paths.length === 0 ? 0 : new Set(paths.map((each) => each.client)).size + Math.max(0, ...paths.filter((each) => !each.client).map((each) => each.clients - 1)),
    clients: clients.map((each) => ({ ...each, note: figures(each) })),
    portals: portals(detail.portals, paths, figures),
    endpoints: endpoints.length > 0 ? endpoints : [nobody(row)],
    paths,
  };
}

/** Who is connected with nobody yet. */
function kept(row) {
  return [row.held > 0 ? `${row.held} held` : "", row.waiting > 0 ? `${row.waiting} waiting` : ""].filter(Boolean);
}

/** What stands where endpoints would: it says what becomes of clients meanwhile. */
function nobody(row) {
  const words = row === undefined ? "" : row.hold === null ? "clients are refused" : `clients are held for ${row.hold} s`;
  return { key: "none", name: "no endpoints", state: "off", glyph: "○", rate: 0, active: 0, words, note: words };
}

function endpoint(each, value, figures, happened, { faults, drain }) {
  const state = endpointState(each);
  const wrong = happened(`endpoint ${each.endpoint}`);
  const row = { key: each.endpoint, name: each.endpoint, state: state.name, glyph: state.glyph, rate: value(each), active: each.active, words: each.reason || state.text };
  const words = drain === "" ? row.words : `drained, ${drain}`;
  const notes = [state.name === "good" || each.active > 0 || row.rate > 0 ? figures(row) : "", state.name === "good" ? "" : words, ...faults.map((fault) => `⚡ ${fault}`)];
  if (wrong > 0) notes.push(`${wrong} failed in a minute`);
  if (faults.length > 0 && row.state === "good") Object.assign(row, { state: "warn", glyph: "▲" });
  return { ...row, note: notes.filter(Boolean).join(" · ") };
}

/** Endpoints in trouble and those with most traffic, in the order that they have; all others are one. */
function few(endpoints) {
  if (endpoints.length <= MOST_ENDPOINTS) return endpoints;
  const ranked = [...endpoints].sort((one, other) => (other.state === "bad") - (one.state === "bad") || other.rate - one.rate || other.active - one.active);
  const shown = new Set(ranked.slice(0, MOST_ENDPOINTS - 1));
  const rest = endpoints.filter((each) => !shown.has(each));
  const sum = (name) => rest.reduce((all, each) => all + each[name], 0);
  const others = { key: "", name: counted(rest.length, "other endpoint"), state: "good", glyph: "●", rate: sum("rate"), active: sum("active"), words: "", note: `${sum("active")} active` };
  return [...endpoints.filter((each) => shown.has(each)), others];
}

function portals(known, paths, figures) {
  const used = summed(paths, (each) => each.to, () => ({}));
  const found = known.map((each) => ({ key: each.portal, name: each.portal, kind: each.kind, inSync: each.in_sync, rate: 0, active: 0, ...used.find((one) => one.key === each.portal) }));
  for (const each of used) {
    if (!known.some((one) => one.portal === each.key)) found.push({ ...each, name: each.key || "portal not known", kind: "", inSync: true });
  }
  const busy = found.sort((one, other) => other.rate - one.rate || other.active - one.active).slice(0, MOST_PORTALS);
  return busy.map((each) => ({ ...each, note: each.inSync ? each.kind : `▲ ${each.kind}, not in sync`, state: each.inSync ? "good" : "warn", figures: figures(each) }));
}

/** The portal that a path has come by: that with its address, or the node port on all addresses. */
function portalOf(path, known) {
  if (path.portal === null) return "";
  if (known.some((each) => each.portal === path.portal)) return path.portal;
  const port = path.portal.slice(path.portal.lastIndexOf(":"));
  return known.find((each) => ANYWHERE.test(each.portal) && each.portal.endsWith(port))?.portal ?? path.portal;
}

function summed(items, key, more) {
  const found = new Map();
  for (const each of items) {
    const before = found.get(key(each)) ?? { key: key(each), rate: 0, active: 0, ...more(each) };
    before.rate += each.rate;
    before.active += each.active;
    found.set(key(each), before);
  }
  return [...found.values()];
}
