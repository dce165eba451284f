// Where the nodes of the picture are, and how lines run between them.

const NARROW = 620;
const ROW = 40;
const TOP = 40;
const LEFT = 176;
const RIGHT = 300;
const CHARACTER = 5.9;
const WIDE_CHARACTER = 7.4;
/** About the width of a character of a note, and of a title. */

/** Nodes, lines and headings of what `flow` has found, in `width` pixels. `widthOf(rate)` is that of a line. */
export function layout(found, width, widthOf) {
  const graph = linked(found, widthOf);
  const made = width < NARROW ? stacked(graph, width) : beside(graph, width);
  for (const node of made.nodes) {
    const room = node.note.anchor === "start" ? width - node.note.x - 8 : node.note.anchor === "end" ? node.note.x : 190;
    node.note.text = clipped(node.note.text, Math.floor(room / CHARACTER));
    node.title.text = clipped(node.title.text, Math.floor(room / WIDE_CHARACTER));
  }
  return made;
}

/** A text that fits: SVG clips none by itself. The table of endpoints has all of it. */
function clipped(text, most) {
  return text.length > most ? `${text.slice(0, Math.max(1, most - 1))}…` : text;
}

function linked(found, widthOf) {
  const line = (key, from, to, each, state) => ({ key, from, to, rate: each.rate, active: each.active, state, width: widthOf(each.rate) });
  const lines = [
    ...found.paths.map((each) => line(`${each.client} > ${each.to}`, `client ${each.client}`, `portal ${each.to}`, each, "good")),
    ...found.portals.map((each) => line(`${each.key} > service`, `portal ${each.key}`, "service", each, each.state)),
    ...found.endpoints.map((each) => line(`service > ${each.key}`, "service", `endpoint ${each.key}`, each, each.state)),
  ];
  const columns = [
    { title: "Clients", nodes: found.clients.map((each) => ({ ...each, kind: "client", state: "good", key: `client ${each.key}` })) },
    { title: "Portals", nodes: found.portals.map((each) => ({ ...each, kind: "portal", key: `portal ${each.key}` })) },
    { title: "Service", nodes: [{ ...found.service, kind: "service", state: found.service.lost ? "bad" : found.service.isKept ? "warn" : "good", key: "service" }] },
    { title: "Endpoints", nodes: found.endpoints.map((each) => ({ ...each, kind: "endpoint", key: `endpoint ${each.key}` })) },
  ];
  for (const { nodes } of columns) {
    for (const node of nodes) {
      node.into = sum(lines.filter((each) => each.to === node.key));
      node.outOf = sum(lines.filter((each) => each.from === node.key));
      node.height = Math.max(12, node.into, node.outOf);
    }
  }
  return { lines, columns };
}

function sum(lines) {
  return lines.reduce((all, each) => all + each.width, 0);
}

/** Four columns, from left to right. */
function beside({ lines, columns }, width) {
  const span = width - LEFT - RIGHT;
  const places = [LEFT, LEFT + span * 0.36, LEFT + span * 0.7, LEFT + span];
  const rows = Math.max(...columns.map(({ nodes }) => nodes.length), 4);
  const height = TOP + rows * ROW + 16;
  for (const [column, { nodes }] of columns.entries()) {
    const step = (rows * ROW) / Math.max(1, nodes.length);
    for (const [row, node] of nodes.entries()) {
      Object.assign(node, { x: places[column], y: TOP + step * (row + 0.5), toward: column === 3 ? -1 : 1 });
      label(node, column);
    }
  }
  const heads = columns.map(({ title }, column) => ({ text: title, y: 16, x: places[column] + [-12, 0, 0, 12][column], anchor: ["end", "middle", "middle", "start"][column] }));
  return drawn(lines, columns, heads, width, height, (line, one, other, from, to) => {
    const half = (other.x - one.x) / 2;
    return `M${one.x} ${from.toFixed(1)}C${one.x + half} ${from.toFixed(1)} ${other.x - half} ${to.toFixed(1)} ${other.x} ${to.toFixed(1)}`;
  });
}

function label(node, column) {
  const { x, y, height } = node;
  const glyph = node.glyph ? { text: node.glyph, x: x + 12, y: y - 1, anchor: "start" } : { text: "", x, y, anchor: "start" };
  if (column === 0 || column === 3) {
    const at = column === 0 ? { x: x - 12, anchor: "end" } : { x: x + 12, anchor: "start" };
    const shift = node.glyph ? 15 : 0;
    Object.assign(node, { sign: glyph, title: { ...at, x: at.x + shift, y: y - 1, text: node.name }, note: { ...at, x: at.x + shift, y: y + 13, text: node.note } });
    return;
  }
  const title = { x, anchor: "middle", y: y - height / 2 - 6, text: node.name };
  const words = node.kind === "service" ? [node.note, node.lost ? `✕ ${node.lost} lost in a minute` : ""].filter(Boolean).join(" · ") : node.note;
  Object.assign(node, { sign: glyph, title, note: { x, anchor: "middle", y: y + height / 2 + 13, text: words } });
}

/** One below the other, with lines as arcs at the left. */
function stacked({ lines, columns }, width) {
  const x = 78;
  const heads = [];
  let y = 16;
  for (const { title, nodes } of columns) {
    heads.push({ text: title, x: x + 14, y, anchor: "start" });
    y += 8;
    for (const node of nodes) {
      y += Math.max(ROW, node.height + 8) / 2;
      const shift = node.glyph ? 15 : 0;
      const note = node.kind === "service" && node.lost ? `${node.note} · ✕ ${node.lost} lost in a minute` : node.kind === "portal" ? `${node.note} · ${node.figures}` : node.note;
      Object.assign(node, {
        x,
        y,
        toward: -1,
        sign: { text: node.glyph ?? "", x: x + 14, y: y - 2, anchor: "start" },
        title: { text: node.name, x: x + 14 + shift, y: y - 2, anchor: "start" },
        note: { text: note, x: x + 14 + shift, y: y + 12, anchor: "start" },
      });
      y += Math.max(ROW, node.height + 8) / 2;
    }
    y += 22;
  }
  return drawn(lines, columns, heads, width, y - 10, (line, one, other, from, to) => {
    const bulge = Math.min(66, 14 + (to - from) * 0.32);
    return `M${x} ${from.toFixed(1)}C${(x - bulge).toFixed(1)} ${from.toFixed(1)} ${(x - bulge).toFixed(1)} ${to.toFixed(1)} ${x} ${to.toFixed(1)}`;
  });
}

/** Give each line its place at both ends: at a node lines lie beside each other, in the order of their other ends. */
function drawn(lines, columns, heads, width, height, path) {
  const nodes = columns.flatMap((each) => each.nodes);
  const known = new Map(nodes.map((each) => [each.key, each]));
  const whole = lines.filter((each) => known.has(each.from) && known.has(each.to));
  const starts = spread(whole, "from", "to", "outOf", known);
  const ends = spread(whole, "to", "from", "into", known);
  const paths = whole.map((line) => ({ ...line, path: path(line, known.get(line.from), known.get(line.to), starts.get(line), ends.get(line)) }));
  return { width, height, heads, nodes, lines: paths };
}

function spread(lines, near, far, side, known) {
  const places = new Map();
  const used = new Map();
  for (const line of [...lines].sort((one, other) => known.get(one[far]).y - known.get(other[far]).y)) {
    const node = known.get(line[near]);
    const before = used.get(node.key) ?? node.y - node[side] / 2;
    places.set(line, before + line.width / 2);
    used.set(node.key, before + line.width);
  }
  return places;
}
