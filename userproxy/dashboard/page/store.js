// What the page knows: the rows of the newest look, and what was before it.

import { stateOf } from "./service_state.js";

const SAMPLES = 120;
const RATES = ["opened_rate", "up_rate", "down_rate", "failed_rate", "retried_rate"];
const SERIES = ["opened", "moved", "failed", "retried"];
const NO_TROUBLE = { failed: 0, retried: 0 };
const MOST_DECISIONS = 400;
const RECENT = 60;
/** Samples of a minute: looks are a second apart, or more. */

export class Store {
  constructor() {
    this.time = 0;
    this.number = 0;
    this.trouble = "";
    this.services = new Map();
    this.history = new Map();
    this.troubles = new Map();
    this.states = new Map();
    this.all = Object.fromEntries(RATES.map((name) => [name, []]));
    this.status = null;
    this.problems = [];
    this.detail = null;
    this.connections = new Map();
    this.decisions = [];
    this.decided = 0;
    this.drains = [];
    this.faults = [];
    this.successions = [];
  }

  /** Forget what belongs to the subject that was shown before. */
  turn() {
    this.detail = null;
    this.connections.clear();
    this.decisions = [];
  }

  /** Take in a frame; `anew` says that it is the first of a stream, which has everything. */
  take(frame, anew) {
    if (anew) {
      for (const rows of [this.services, this.connections, this.history, this.troubles]) rows.clear();
      this.decisions = [];
    }
    if (frame.kind === "decisions") this.takeDecisions(frame);
    else if (frame.kind === "rows") this.takeRows(frame);
    else this.takeLook(frame);
  }

  /** Rows of a look that comes after them. */
  takeRows({ services, connections, history }) {
    if (services) patch(this.services, services, "key");
    if (connections) patch(this.connections, connections, "id");
    if (history) this.takeSeries(history);
  }

  takeDecisions(frame) {
    for (const item of frame.items) item.order = this.decided++;
    this.decisions = frame.items.reverse().concat(this.decisions).slice(0, MOST_DECISIONS);
    this.fresh = frame.items;
  }

  takeLook(frame) {
    this.trouble = frame.trouble;
    if (frame.trouble) return;
    const passed = this.number === 0 ? 1 : Math.max(1, Math.min(frame.number - this.number, SAMPLES));
    this.states.clear();
    this.time = frame.time;
    this.number = frame.number;
    this.takeServices(frame.services);
    if (frame.history) this.takeHistory(frame.history);
    else this.goOn(passed);
    for (const part of ["status", "problems", "drains", "faults", "successions"]) if (part in frame) this[part] = frame[part];
    this.detail = frame.detail ?? null;
    if (frame.connections) patch(this.connections, frame.connections, "id");
  }

  takeServices(changes) {
    patch(this.services, changes, "key");
    for (const key of changes.gone) {
      this.history.delete(key);
      this.troubles.delete(key);
    }
  }

  takeHistory(history) {
    this.all = history.all;
    this.takeSeries(history.services);
  }

  takeSeries(services) {
    for (const [key, series] of Object.entries(services)) {
      this.history.set(key, series);
      this.count(key, series);
    }
  }

  /** Add this look to the history; looks between that were not sent are taken to have been like it. */
  goOn(passed) {
    const sums = Object.fromEntries(RATES.map((name) => [name, 0]));
    for (const row of this.services.values()) {
      for (const name of RATES) sums[name] += row[name];
      const now = { opened: row.opened_rate, moved: row.up_rate + row.down_rate, failed: row.failed_rate, retried: row.retried_rate };
      let series = this.history.get(row.key);
      if (series === undefined) {
        if (!now.opened && !now.moved && !now.failed && !now.retried) continue;
        series = {};
        this.history.set(row.key, series);
      }
      for (const name of SERIES) {
        if (series[name] === undefined && !now[name]) continue;
        series[name] ??= [];
        for (let each = 0; each < passed; each += 1) push(series[name], now[name]);
      }
      this.count(row.key, series);
    }
    for (const name of RATES) for (let each = 0; each < passed; each += 1) push(this.all[name], sums[name]);
  }

  /** Sum up what went wrong of late with a service port's clients. */
  count(key, { failed, retried }) {
    if (failed === undefined && retried === undefined) return;
    const trouble = { failed: sum(failed), retried: sum(retried) };
    if (trouble.failed + trouble.retried > 0) this.troubles.set(key, trouble);
    else this.troubles.delete(key);
  }

  /** How a service port is, see `stateOf`. */
  stateOf(row) {
    let state = this.states.get(row.key);
    if (state === undefined) {
      state = stateOf(row, this.recent(row.key));
      this.states.set(row.key, state);
    }
    return state;
  }

  /** How many service ports have clients who are not served. */
  get badCount() {
    let count = 0;
    for (const row of this.services.values()) if (this.stateOf(row).name === "bad") count += 1;
    return count;
  }

  /** How many clients of a service port were not served, and how many were only after a retry, within about a minute. */
  recent(key) {
    return this.troubles.get(key) ?? NO_TROUBLE;
  }

  /** The sums of all service ports. */
  totals() {
    const sums = { active: 0, opened_rate: 0, up_rate: 0, down_rate: 0, failed_rate: 0, retried_rate: 0 };
    for (const row of this.services.values()) for (const name of Object.keys(sums)) sums[name] += row[name];
    return sums;
  }
}

function patch(rows, changes, key) {
  for (const row of changes.changed) rows.set(row[key], row);
  for (const gone of changes.gone) rows.delete(gone);
}

function sum(series = []) {
  return series.slice(-RECENT).reduce((all, each) => all + each, 0);
}

function push(series, value) {
  series.push(value);
  if (series.length > SAMPLES) series.shift();
}

/** A Service's name as people write it: "default/web:http". */
export function serviceName(row) {
  return `${row.namespace}/${row.name}${row.port ? `:${row.port}` : ""}`;
}

export { SAMPLES };
