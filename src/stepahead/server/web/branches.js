// Which of several versions of a turn is shown.

import { el, iconButton } from "./dom.js";

export function branchControls({ index, count }, choose) {
  if (count < 2) return null;
  return el("span", { class: "branches", role: "group", "aria-label": "Versions of this turn" },
    iconButton("left", "Previous version", () => choose(-1), { disabled: index === 0 }),
    el("span", { class: "branch-count" }, `${index + 1} / ${count}`),
    iconButton("right", "Next version", () => choose(1), { disabled: index === count - 1 }));
}
