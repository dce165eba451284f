// A table of thousands of rows, of which only those in sight are elements.
//
// It is a grid for screen readers (rows are counted, whether they are elements or not), sorted by its headings, and moved
// in by the arrow keys, Home, End, Page Up and Page Down; Enter chooses a row. While somebody points at a row or has the
// keyboard in it, the order is held, so that nothing moves away under the hand.

import { element, mark, say } from "./dom.js";

const SPARE = 4;

/** A column of numbers, the greatest first when it is sorted by; `form` writes one, and zeros are told from the rest. */
export function figure(name, title, value, form, hint) {
  return {
    name,
    title,
    hint,
    value,
    first: "greatest",
    write: (cell, row) => {
      say(cell, form(value(row)));
      mark(cell, "data-zero", value(row) === 0);
    },
  };
}

export class Grid {
  /**
   * `columns` have `name`, `title`, `value(row)` for sorting, `write(cell, row)`, and a `hint`. `choose(row)` is called
   * for a row that is chosen. `empty()` says why there are no rows.
   */
  constructor(place, { label, columns, key, sort, descending = false, choose = null, empty, rowClass = null, sortable = true }) {
    Object.assign(this, { columns, key, choose, empty, rowClass, sortable });
    this.sort = sort;
    this.descending = descending;
    this.rows = [];
    this.order = [];
    this.active = null;
    this.chosen = null;
    this.isHeld = false;
    this.elements = new Map();
    this.spare = [];
    this.build(place, label);
    new ResizeObserver(() => this.draw()).observe(this.body);
  }

  build(place, label) {
    this.head = element("div", { className: "row head", role: "row", "aria-rowindex": 1 });
    for (const [place, column] of this.columns.entries()) this.head.append(this.heading(column, place));
    this.space = element("div", { className: "space", role: "presentation" });
    this.body = element("div", { className: "body", role: "rowgroup", onscroll: () => this.draw() }, this.space);
    this.note = element("p", { className: "empty" });
    this.root = element(
      "div",
      { className: "grid", role: "grid", "aria-label": label, "aria-colcount": this.columns.length },
      element("div", { role: "rowgroup" }, this.head),
      this.body,
    );
    this.body.addEventListener("keydown", (event) => this.onKey(event));
    this.body.addEventListener("click", (event) => this.onClick(event));
    this.body.addEventListener("pointerenter", () => (this.isHeld = true));
    this.body.addEventListener("pointerleave", () => this.release());
    this.body.addEventListener("focusin", () => (this.isHeld = true));
    this.body.addEventListener("focusout", () => this.release());
    place.append(this.root, this.note);
  }

  heading(column, place) {
    const cell = element("div", { className: `cell ${column.name}`, role: "columnheader", "aria-colindex": place + 1 });
    if (!this.sortable || column.value === undefined) {
      say(cell, column.title);
      return cell;
    }
    const button = element("button", {
      type: "button",
      title: column.hint ?? column.label ?? null,
      "aria-label": column.label,
      onclick: () => this.sortBy(column.name),
    });
    button.append(column.title, element("span", { className: "arrow", "aria-hidden": "true" }));
    cell.append(button);
    return cell;
  }

  /** Sort by a column; once more turns it round. Figures begin with the greatest. */
  sortBy(name) {
    if (this.sort === name) this.descending = !this.descending;
    else {
      this.sort = name;
      this.descending = this.columns.find((column) => column.name === name).first === "greatest";
    }
    this.arrange(true);
  }

  release() {
    this.isHeld = this.body.matches(":hover") || this.body.contains(document.activeElement);
  }

  /** Show these rows. */
  show(rows) {
    this.rows = rows;
    this.arrange(false);
  }

  arrange(anyway) {
    const held = this.isHeld && !anyway && this.sortable;
    this.order = held ? this.kept() : this.sorted(this.rows);
    this.head.querySelectorAll("[role=columnheader]").forEach((cell, place) => {
      const { name } = this.columns[place];
      const sorted = this.sortable && name === this.sort;
      mark(cell, "aria-sort", sorted ? (this.descending ? "descending" : "ascending") : null);
    });
    mark(this.root, "aria-rowcount", this.order.length + 1);
    this.note.hidden = this.order.length > 0;
    say(this.note, this.order.length > 0 ? "" : this.empty());
    this.draw();
  }

  sorted(rows) {
    const column = this.columns.find((each) => each.name === this.sort);
    if (!this.sortable || column === undefined) return [...rows];
    const sign = this.descending ? -1 : 1;
    const decorated = rows.map((row) => [column.value(row), row]);
    decorated.sort(([one, first], [other, second]) => {
      if (one < other) return -sign;
      if (one > other) return sign;
      return this.key(first) < this.key(second) ? -1 : 1;
    });
    return decorated.map(([, row]) => row);
  }

  /** The rows in the order that they had; new ones at the end. */
  kept() {
    const known = new Map(this.rows.map((row) => [this.key(row), row]));
    const order = [];
    for (const row of this.order) {
      const now = known.get(this.key(row));
      if (now !== undefined) order.push(now);
      known.delete(this.key(row));
    }
    return order.concat(this.sorted([...known.values()]));
  }

  get height() {
    return parseFloat(getComputedStyle(this.root).getPropertyValue("--row")) || 30;
  }

  draw() {
    const height = this.height;
    const first = Math.max(0, Math.floor(this.body.scrollTop / height) - SPARE);
    const last = Math.min(this.order.length, Math.ceil((this.body.scrollTop + this.body.clientHeight) / height) + SPARE);
    this.space.style.height = `${this.order.length * height}px`;
    const wanted = new Map();
    for (let place = first; place < last; place += 1) wanted.set(this.key(this.order[place]), place);
    const active = this.placeOf(this.active);
    if (active >= 0) wanted.set(this.active, active);
    for (const [key, made] of this.elements) {
      if (wanted.has(key)) continue;
      this.elements.delete(key);
      this.spare.push(made);
    }
    for (const [key, place] of wanted) this.drawRow(key, place, height);
    for (const made of this.spare) made.root.remove();
    this.spare.length = Math.min(this.spare.length, 40);
    this.reachable(first);
  }

  drawRow(key, place, height) {
    let made = this.elements.get(key);
    if (made === undefined) {
      made = this.spare.pop() ?? this.made();
      this.elements.set(key, made);
    }
    if (!made.root.isConnected) this.space.append(made.root);
    const row = this.order[place];
    made.root.style.transform = `translateY(${place * height}px)`;
    mark(made.root, "aria-rowindex", place + 2);
    mark(made.root, "data-key", key);
    mark(made.root, "aria-selected", this.choose === null ? null : key === this.chosen);
    if (this.rowClass !== null) mark(made.root, "data-state", this.rowClass(row));
    for (const [index, column] of this.columns.entries()) column.write(made.cells[index], row);
  }

  made() {
    const cells = this.columns.map((column, place) =>
      element("div", { className: `cell ${column.name}`, role: "gridcell", "aria-colindex": place + 1 }),
    );
    return { root: element("div", { className: "row", role: "row", tabIndex: -1 }, ...cells), cells };
  }

  /** Exactly one row is reached by the Tab key: the active one, or the first in sight. */
  reachable(first) {
    const key = this.active ?? (this.order.length > 0 ? this.key(this.order[Math.min(first, this.order.length - 1)]) : null);
    for (const [each, made] of this.elements) {
      const wanted = each === key ? 0 : -1;
      if (made.root.tabIndex !== wanted) made.root.tabIndex = wanted;
    }
  }

  placeOf(key) {
    return key === null ? -1 : this.order.findIndex((row) => this.key(row) === key);
  }

  onClick(event) {
    const row = event.target.closest(".row");
    if (row === null || event.target.closest("button")) return;
    this.activate(this.placeOf(this.keyOf(row)));
    this.chooseActive();
  }

  keyOf(root) {
    for (const [key, made] of this.elements) if (made.root === root) return key;
    return null;
  }

  onKey(event) {
    const page = Math.max(1, Math.floor(this.body.clientHeight / this.height) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const focused = this.placeOf(this.keyOf(document.activeElement?.closest(".row")));
    if (event.key in steps && !event.ctrlKey && !event.altKey && !event.metaKey) {
      this.activate(Math.max(0, Math.min(this.order.length - 1, Math.max(focused, 0) + steps[event.key])));
    } else if (event.key === "Enter" || event.key === " ") {
      if (event.target.closest("button")) return;
      this.activate(focused);
      this.chooseActive();
    } else return;
    event.preventDefault();
  }

  /** Make a row the one that the keyboard is in, and bring it into sight. */
  activate(place) {
    if (place < 0 || place >= this.order.length) return;
    const height = this.height;
    this.active = this.key(this.order[place]);
    const top = place * height;
    if (top < this.body.scrollTop) this.body.scrollTop = top;
    else if (top + height > this.body.scrollTop + this.body.clientHeight) {
      this.body.scrollTop = top + height - this.body.clientHeight;
    }
    this.draw();
    this.elements.get(this.active)?.root.focus({ preventScroll: true });
  }

  chooseActive() {
    if (this.choose === null || this.active === null) return;
    const place = this.placeOf(this.active);
    if (place >= 0) this.choose(this.order[place]);
  }
}
