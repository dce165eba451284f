// Elements, made without ever parsing text as HTML: names of objects come from a cluster's tenants.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element with properties (`on...` are listeners, `aria-...` and `data-...` attributes) and children. */
export function element(tag, properties = {}, ...children) {
  return dressed(document.createElement(tag), properties, children);
}

/** An SVG element; all properties are attributes. */
export function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function dressed(made, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** The element with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Write a text only where it differs: an element that is written to is laid out again. */
export function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

/** Set or remove an attribute, likewise. */
export function mark(place, name, value) {
  if (value === null || value === undefined || value === false) {
    if (place.hasAttribute(name)) place.removeAttribute(name);
  } else if (place.getAttribute(name) !== String(value)) place.setAttribute(name, value);
}

/** Tell people who hear the page, once they are free to listen. */
export function tell(text) {
  say(byId("said"), text);
}
