// Keys that work everywhere in the page; dialogs.js lists them for the user.

import { isComposing } from "./dom.js";

export function wireKeyboard(actions) {
  document.addEventListener("keydown", (event) => {
    if (isComposing(event) || document.querySelector("dialog[open]")) return;
    const action = actionOf(event, actions);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function actionOf(event, actions) {
  const key = event.key.toLowerCase();
  const hasMod = event.ctrlKey || event.metaKey;
  if (hasMod && !event.altKey) {
    const { newConversation, retryLast, showShortcuts } = actions;
    if (event.shiftKey) return { o: newConversation, enter: retryLast, "?": showShortcuts }[key];
    return { k: actions.search, b: actions.toggleSidebar, ",": actions.settings, "/": actions.showShortcuts }[key];
  }
  if (event.altKey) return event.code === "KeyT" ? actions.toggleTint : undefined;
  if (key === "escape") return actions.escape;
  if (event.target.closest?.("input, textarea, select, [contenteditable]")) return undefined;
  return { "/": actions.focusComposer, "?": actions.showShortcuts }[key];
}
