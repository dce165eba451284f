// The form for a fault: what it does, to which part of the clients, and for how long.

import { element } from "./dom.js";

const MINUTE = 60;
const LASTS = [[30, "30 s"], [MINUTE, "1 minute"], [5 * MINUTE, "5 minutes"], [30 * MINUTE, "30 minutes"]];

const KINDS = {
  latency: {
    title: "latency",
    fields: [["milliseconds", "ms", 200, 1, 60000], ["jitter", "± ms", 0, 0, 60000]],
    effect: ({ milliseconds, jitter }) => ({ kind: "latency", seconds: milliseconds / 1000, jitter_seconds: jitter / 1000 }),
    words: ({ milliseconds, jitter }) => `answers ${milliseconds} ms later${jitter ? `, give or take ${jitter} ms` : ""}`,
  },
  bandwidth: {
    title: "bandwidth",
    only: "TCP",
    fields: [["kibibytes", "KiB/s", 64, 1, 10000000]],
    effect: ({ kibibytes }) => ({ kind: "bandwidth", bytes_per_second: kibibytes * 1024 }),
    words: ({ kibibytes }) => `at most ${kibibytes} KiB/s of each connection`,
  },
  refuse: { title: "refuse", only: "TCP", fields: [], effect: () => ({ kind: "refuse" }), words: () => "new connections are reset" },
  blackhole: { title: "blackhole", fields: [], effect: () => ({ kind: "blackhole" }), words: () => "nothing passes" },
  "reset-after-bytes": {
    title: "reset after bytes",
    only: "TCP",
    fields: [["kibibytes", "KiB", 64, 1, 10000000]],
    effect: ({ kibibytes }) => ({ kind: "reset-after-bytes", bytes: kibibytes * 1024 }),
    words: ({ kibibytes }) => `connections are reset after ${kibibytes} KiB`,
  },
  "reset-after-seconds": {
    title: "reset after a time",
    only: "TCP",
    fields: [["seconds", "s", 2, 0, 3600]],
    effect: ({ seconds }) => ({ kind: "reset-after-seconds", seconds }),
    words: ({ seconds }) => `connections are reset after ${seconds} s`,
  },
  drop: { title: "drop datagrams", only: "UDP", fields: [], effect: () => ({ kind: "drop" }), words: () => "datagrams are lost" },
};

/** The form for service ports of a protocol: `root`, what to ask for (`request()`), and that in words. */
export function faultForm(protocol) {
  const kinds = Object.entries(KINDS).filter(([, { only }]) => only === undefined || only === protocol);
  const kind = element("select", { name: "fault-kind" }, ...kinds.map(([name, { title }]) => element("option", { value: name }, title)));
  const fields = element("span", { className: "fields" });
  const percent = element("input", { type: "number", name: "fault-percent", value: 100, min: 1, max: 100, step: 1 });
  const lasts = element("select", { name: "fault-lasts" }, ...LASTS.map(([value, words], place) => element("option", { value, selected: place === 1 }, words)));
  const fill = () => fields.replaceChildren(...KINDS[kind.value].fields.map(([name, unit, value, min, max]) =>
    element("label", {}, element("input", { type: "number", name: `fault-${name}`, value, min, max }), ` ${unit}`)));
  const given = () => Object.fromEntries([...fields.querySelectorAll("input")].map((input) => [input.name.slice("fault-".length), Number(input.value)]));
  kind.addEventListener("change", fill);
  fill();
  return {
    root: element(
      "div",
      { className: "fields" },
      element("label", {}, "what ", kind),
      fields,
      element("label", {}, percent, protocol === "UDP" ? " % of what passes" : " % of connections"),
      element("label", {}, "for ", lasts),
    ),
    request: () => ({ effect: KINDS[kind.value].effect(given()), percent: Number(percent.value), for_seconds: Number(lasts.value) }),
    words: () => `${KINDS[kind.value].words(given())}, ${percent.value} %, for ${lasts.selectedOptions[0].textContent}`,
  };
}
