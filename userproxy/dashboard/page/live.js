// The stream of frames from the dashboard's server, asked for again whenever it breaks.

import { Slices } from "./slices.js";

const AGAIN_MILLISECONDS = 1000;

/**
 * What has come of asking: `frame` is called with each frame, `state` with "live", "gone" (the dashboard itself does not
 * answer) or "closed" (it does, and says why not) and a sentence.
 */
export class Live {
  constructor(frame, state) {
    this.frame = frame;
    this.state = state;
    this.asking = null;
    this.query = null;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop() : this.ask(this.query)));
  }

  /** Ask for what `query` says, in place of what was asked for before. Nobody is asked while nobody looks. */
  ask(query) {
    this.stop();
    this.query = query;
    if (query === null || document.hidden) return;
    this.asking = new AbortController();
    this.read(query, this.asking.signal);
  }

  stop() {
    this.asking?.abort();
    this.asking = null;
  }

  async read(query, signal) {
    while (!signal.aborted) {
      try {
        const answer = await fetch(`/live?${new URLSearchParams(query)}`, { signal, cache: "no-store" });
        if (!answer.ok) {
          const told = await answer.json();
          this.state("closed", told.error);
          if (answer.status !== 503) return;
        } else {
          await this.lines(answer.body, signal);
        }
      } catch {
        if (signal.aborted) return;
      }
      if (!signal.aborted) this.state("gone", "");
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MILLISECONDS));
    }
  }

  async lines(body, signal) {
    let anew = true;
    let parts = [];
    const slices = new Slices();
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done || signal.aborted) return;
      const lines = value.split("\n");
      for (const [place, line] of lines.entries()) {
        parts.push(line);
        if (place === lines.length - 1) break;
        const whole = parts.join("");
        parts = [];
        if (anew) this.state("live", "");
        this.frame(JSON.parse(whole), anew);
        anew = false;
        await slices.pause();
        if (signal.aborted) return;
      }
    }
  }
}

/** Exchange the token of the link for a session. Returns a sentence if that was refused, else null. */
export async function openSession() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return null;
  history.replaceState(null, "", location.pathname);
  const answer = await fetch("/session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token }),
  });
  return answer.ok ? null : (await answer.json()).error;
}
