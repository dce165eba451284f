// How a service port is, in a word.

import { counted } from "./figures.js";

/** The order of states, the worst first. */
export const RANKS = { bad: 0, warn: 1, off: 2, good: 3 };

/**
 * A word, a sign that is told from others without colours, and a sentence. `recent` says how many clients were not served
 * and how many were tried again within the last minute: who looks up sees what has just been, too.
 */
export function stateOf(row, recent) {
  const { usable, all } = row.endpoints;
  const failed = Math.round(recent.failed);
  const retried = Math.round(recent.retried);
  const lost = failed > 0 ? `${counted(failed, "client")} not served in a minute` : "";
  if (lost && all === 0) return state("bad", `${lost}: no endpoints`);
  if (all > 0 && usable === 0 && !row.held) return state("bad", [`none of ${counted(all, "endpoint")} can be used`, lost].filter(Boolean).join("; "));
  if (lost) return state("bad", lost);
  if (row.held > 0) return state("warn", `${counted(row.held, "client")} held until an endpoint can be used`);
  if (row.waiting > 0) return state("warn", `${counted(row.waiting, "client")} waiting: its limits leave no room`);
  if (row.ejected > 0) return state("warn", `${row.ejected} of ${counted(all, "endpoint")} ejected`);
  if (retried > 0) return state("warn", `${counted(retried, "client")} tried again in a minute`);
  if (all === 0) return state("off", "no endpoints");
  if (usable < all) return state("warn", `${usable} of ${all} endpoints can be used`);
  return state("good", "all endpoints can be used");
}

const GLYPHS = { bad: "✕", warn: "▲", off: "○", good: "●" };

function state(name, text) {
  return { name, glyph: GLYPHS[name], text };
}
