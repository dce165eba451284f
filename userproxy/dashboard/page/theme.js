// Light, dark, or as the system has it. The choice is remembered by the browser.

import { byId, tell } from "./dom.js";

const NAMES = { auto: "Theme: system", light: "Theme: light", dark: "Theme: dark" };
const ORDER = Object.keys(NAMES);

/** Make the button in the page's head change the theme. */
export function themes() {
  const button = byId("theme");
  let chosen = localStorage.getItem("theme");
  if (!ORDER.includes(chosen)) chosen = "auto";
  const apply = () => {
    if (chosen === "auto") document.documentElement.removeAttribute("data-theme");
    else document.documentElement.dataset.theme = chosen;
    button.textContent = NAMES[chosen];
  };
  button.addEventListener("click", () => {
    chosen = ORDER[(ORDER.indexOf(chosen) + 1) % ORDER.length];
    localStorage.setItem("theme", chosen);
    apply();
    tell(NAMES[chosen]);
  });
  apply();
}
