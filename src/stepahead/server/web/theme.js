// Light or dark, before anything is drawn: loaded in the head, not as a module.

"use strict";
{
  const KEY = "stepahead-theme";
  const NAMES = ["auto", "light", "dark"];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = "auto";
  try {
    chosen = NAMES.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : "auto";
  } catch {
    // No storage: as the system has it.
  }
  const apply = () => {
    document.documentElement.dataset.theme = chosen === "auto" ? (dark.matches ? "dark" : "light") : chosen;
  };
  dark.addEventListener("change", apply);
  globalThis.theme = {
    get: () => chosen,
    set(name) {
      chosen = NAMES.includes(name) ? name : "auto";
      try {
        localStorage.setItem(KEY, chosen);
      } catch {
        // Lasts as long as the page.
      }
      apply();
    },
  };
  apply();
}
