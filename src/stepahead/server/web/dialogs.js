// Small dialogs: a question, the key, the keys of the keyboard, the model.

import { el, replace } from "./dom.js";
import { storedKey, storeKey } from "./api.js";

const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
const MOD = isMac ? "⌘" : "Ctrl";
const SHORTCUTS = [
  ["Send", ["Enter"]],
  ["New line", ["Shift", "Enter"]],
  ["Stop the answer", ["Esc"]],
  ["Answer again", [MOD, "Shift", "Enter"]],
  ["Edit your last message", ["↑"], "in an empty field"],
  ["New conversation", [MOD, "Shift", "O"]],
  ["Search conversations", [MOD, "K"]],
  ["Show or hide the list", [MOD, "B"]],
  ["Mark drafted text", ["Alt", "T"]],
  ["Settings", [MOD, ","]],
  ["To the message field", ["/"], "outside of fields"],
  ["Leave a field where Tab indents", ["Esc", "Tab"]],
  ["This list", [MOD, "/"]],
];

export function wireDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    });
  }
}

// Resolves to true or false.
export function confirmed(question, action) {
  const dialog = document.querySelector("#confirm-dialog");
  dialog.querySelector(".confirm-text").textContent = question;
  const button = dialog.querySelector(".confirm-action");
  button.textContent = action;
  return new Promise((resolve) => {
    const form = dialog.querySelector("form");
    let answer = false;
    form.onsubmit = (event) => {
      event.preventDefault();
      answer = true;
      dialog.close();
    };
    dialog.onclose = () => resolve(answer);
    dialog.showModal();
  });
}

// Resolves to true when a key was entered.
export function askKey(wasWrong) {
  const dialog = document.querySelector("#key-dialog");
  const field = dialog.querySelector("input");
  dialog.querySelector(".key-problem").textContent = wasWrong && storedKey() ? "The server did not take this key." : "";
  field.value = "";
  return new Promise((resolve) => {
    let isGiven = false;
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      if (!field.value.trim()) return;
      storeKey(field.value.trim());
      isGiven = true;
      dialog.close();
    };
    dialog.onclose = () => resolve(isGiven);
    if (!dialog.open) dialog.showModal();
  });
}

export function showShortcuts() {
  const dialog = document.querySelector("#keys-dialog");
  replace(dialog.querySelector(".dialog-body"), el("dl", { class: "shortcuts" },
    ...SHORTCUTS.flatMap(([what, keys, where]) => [
      el("dt", {}, what, where ? el("small", {}, ` ${where}`) : null),
      el("dd", {}, ...keys.map((key) => el("kbd", {}, key))),
    ])));
  dialog.showModal();
}

// Of /props; a server that does not tell something leaves its line out.
const FACTS = [
  ["Name", (model) => model.id],
  ["File", ({ props }) => props.model_path],
  ["Described as", ({ props }) => props.model_name],
  ["Architecture", ({ props }) => props.architecture],
  ["Draft heads", ({ props }) => props.num_heads],
  ["Context", (model) => model.contextLength && `${model.contextLength.toLocaleString("en")} tokens`],
  ["Chat template", ({ props }) => ({ true: "yes", false: "no" })[props.has_chat_template]],
  ["Temperature by default", ({ props }) => props.default_generation_settings?.temperature],
  ["Answers side by side", ({ props }) => props.total_slots],
  ["Server", ({ props }) => props.build_info],
];

export function showModel(model) {
  const dialog = document.querySelector("#model-dialog");
  const rows = FACTS.map(([name, read]) => [name, read(model)]).filter(([, value]) => (value ?? null) !== null);
  replace(dialog.querySelector(".dialog-body"), el("dl", { class: "facts" },
    ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value).slice(0, 300))])));
  dialog.showModal();
}
