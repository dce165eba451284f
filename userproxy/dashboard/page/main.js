// The page: what is chosen, what is asked for, and who draws it.

import { Connections } from "./connections.js";
import { Controls } from "./controls.js";
import { Decisions } from "./decisions.js";
import { byId, mark, say, tell } from "./dom.js";
import { Endpoints } from "./endpoints.js";
import { age, clock, count, counted, rate } from "./figures.js";
import { Health } from "./health.js";
import { Live, openSession } from "./live.js";
import { Overview } from "./overview.js";
import { Picture } from "./picture.js";
import { Services } from "./services.js";
import { Slices } from "./slices.js";
import { serviceName, Store } from "./store.js";
import { themes } from "./theme.js";

const NEWS_SECONDS = 60;

class Page {
  constructor() {
    this.store = new Store();
    this.subject = null;
    this.measure = localStorage.getItem("measure") === "bytes" ? "bytes" : "connections";
    this.link = { state: "waiting", text: "" };
    this.isDue = false;
    this.isDrawing = false;
    this.refused = null;
    this.controls = new Controls(this.store);
    this.parts = {
      services: new Services(this.store, this),
      endpoints: new Endpoints(this.store, this),
      picture: new Picture(this.store, this),
      connections: new Connections(this.store, this),
      decisions: new Decisions(this.store, this),
      overview: new Overview(this.store, this),
      health: new Health(this.store),
    };
    this.live = new Live(
      (frame, anew) => this.take(frame, anew),
      (state, text) => this.linked(state, text),
    );
    this.listen();
  }

  listen() {
    byId("subject-clear").addEventListener("click", () => this.choose(null));
    for (const button of document.querySelectorAll("nav.views button")) {
      button.addEventListener("click", () => this.view(button.dataset.view));
    }
    for (const button of byId("measure").children) {
      button.addEventListener("click", () => this.measured(button.dataset.measure));
    }
    this.measured(this.measure);
    addEventListener("hashchange", () => this.follow());
    addEventListener("keydown", (event) => this.onKey(event));
  }

  /** `/` goes to the filter of Services, Escape back to all of them. */
  onKey(event) {
    if (document.querySelector("dialog[open]")) return;
    const isTyping = event.target.matches("input");
    if (event.key === "/" && !isTyping) {
      this.view("services");
      byId("services-filter").focus();
      event.preventDefault();
    } else if (event.key === "Escape" && isTyping && event.target.type === "search") {
      event.target.value = "";
      event.target.dispatchEvent(new Event("input"));
    } else if (event.key === "Escape" && this.subject !== null) this.choose(null);
  }

  async start() {
    this.refused = await openSession().catch(() => "the dashboard does not answer");
    this.follow(true);
  }

  /** Show the subject that the address names. */
  follow(anyway = false) {
    const key = decodeURIComponent(location.hash.replace(/^#\/?/, "")) || null;
    if (key === this.subject && !anyway) return;
    this.subject = key;
    this.store.turn();
    this.ask();
    if (key !== null) {
      this.view("subject");
      tell(`Shown: ${key.replace(/\/[^/]*$/, "").replace(/\/([^/]*)$/, ":$1")}`);
    } else if (!anyway) tell("Shown: all Services");
    this.due();
  }

  choose(key) {
    location.hash = key === null ? "" : `/${key}`;
  }

  ask() {
    const query = { connections: "true" };
    if (this.subject !== null) query.service = this.subject;
    if (this.parts.decisions.served.checked) query.served = "true";
    this.live.ask(query);
  }

  take(frame, anew) {
    this.store.take(frame, anew);
    if (frame.kind === "rows") return;
    if (frame.kind === "decisions" && !anew && this.subject !== null) this.parts.picture.happened(frame.items);
    this.due();
  }

  linked(state, text) {
    this.link = { state, text: state === "closed" ? (this.refused ?? text) : text };
    this.due();
  }

  /** Draw once, however much has come, and what comes while that is being done, afterwards. */
  due() {
    this.isDue = true;
    if (!this.isDrawing) requestAnimationFrame(() => this.drawWhatIsDue());
  }

  async drawWhatIsDue() {
    if (this.isDrawing || !this.isDue) return;
    this.isDrawing = true;
    this.isDue = false;
    try {
      await this.draw();
    } finally {
      this.isDrawing = false;
    }
    if (this.isDue) this.due();
  }

  view(name) {
    document.body.dataset.view = name;
    for (const button of document.querySelectorAll("nav.views button")) {
      mark(button, "aria-current", button.dataset.view === name ? "true" : null);
    }
    this.due();
  }

  measured(name) {
    this.measure = name;
    localStorage.setItem("measure", name);
    for (const button of byId("measure").children) mark(button, "aria-pressed", String(button.dataset.measure === name));
    this.due();
  }

  /** What can be done with an endpoint or a connection. */
  control(kind, row) {
    this.controls.open(kind, row, this.subject);
  }

  /** Everything, a part at a time: with thousands of rows each may take some milliseconds. */
  async draw() {
    const { parts } = this;
    const slices = new Slices();
    this.drawHead();
    for (const part of [parts.overview, parts.services, parts.picture, parts.endpoints, parts.connections, parts.decisions]) {
      await slices.pause();
      part.show();
    }
  }

  drawHead() {
    const { store } = this;
    this.parts.health.show(this.trouble());
    mark(document.body, "data-controls", this.controls.allowed.size > 0 ? "true" : null);
    this.controls.show();
    mark(document.body, "data-subject", this.subject === null ? null : "true");
    mark(document.body, "data-stale", store.trouble !== "" || this.link.state === "gone" ? "true" : null);
    this.news(this.store);
    this.title();
  }

  /** Say for a minute that another process serves. */
  news({ successions, time }) {
    const newest = successions.at(-1);
    const place = byId("news");
    place.hidden = newest === undefined || newest.time < time - NEWS_SECONDS || !byId("trouble").hidden;
    const silence = newest?.seconds > 0 ? `, after ${age(Math.ceil(newest.seconds))} in which nobody answered` : "";
    say(place, place.hidden ? "" : `⇄ Since ${clock(newest.time)} process ${newest.pid} serves in the place of process ${newest.before}${silence}.`);
  }

  /** Say what is wrong between here and the proxy. Returns it in a few words, empty if nothing is. */
  trouble() {
    const { store, link } = this;
    const since = store.time > 0 ? ` The figures are those of ${clock(store.time)}.` : "";
    let words = "";
    let text = "";
    if (link.state === "closed") [words, text] = ["Closed", `${sentence(link.text)}`];
    else if (link.state === "gone") {
      [words, text] = ["Dashboard gone", `\`userproxy dashboard\` does not answer: it was probably ended. It is tried again every second.${since}`];
    } else if (store.trouble) [words, text] = ["Proxy gone", `${sentence(store.trouble)} It is asked again every second.${since}`];
    const place = byId("trouble");
    place.hidden = text === "";
    say(place, text);
    return words;
  }

  title() {
    const row = this.subject === null ? null : this.store.services.get(this.subject);
    const isMissing = this.subject !== null && row === undefined && this.store.number > 0;
    say(byId("subject-title"), this.subject === null ? "All Services" : row ? serviceName(row) : this.subject);
    byId("subject-clear").hidden = this.subject === null;
    const note = isMissing ? "is not served here any more" : row ? terms(row).join(" · ") : "";
    say(byId("subject-note"), note);
    mark(byId("subject-note"), "title", note);
  }
}

/** How clients of a service port are served, in a few words. */
function terms(row) {
  const { limits } = row;
  return [
    row.protocol,
    row.balancer,
    row.affinity === "None" ? "" : `affinity ${row.affinity}`,
    !limits?.connections ? counted(row.active, "connection") : "",
    limits?.connections ? `${count(row.active)} of at most ${counted(limits.connections, "connection")}, more ${limits.overflow === "wait" ? "wait" : "are refused"}` : "",
    limits?.rate ? `at most ${rate(limits.rate)} a second` : "",
    limits?.idle ? `reset after ${age(limits.idle)} of silence` : "",
    row.limited > 0 ? `${count(row.limited)} refused by limits` : "",
    row.waiting > 0 ? `${count(row.waiting)} waiting` : "",
    row.held > 0 ? `${count(row.held)} held` : "",
  ].filter(Boolean);
}

function sentence(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${text.endsWith(".") ? "" : "."}`;
}

themes();
new Page().start();
