// What an empty conversation shows: the model, and ways to begin.

import { el, replace } from "./dom.js";

const CHAT = [
  ["Explain", "Explain how speculative decoding makes a language model faster, with a small example."],
  ["Write", "Write a Python function that merges overlapping intervals, with tests."],
  ["Compare", "Compare SQLite and PostgreSQL for a small web service, as a table."],
];
const COMPLETION = [
  ["A function", 'def read_lines(path, encoding="utf-8"):\n    """Return the lines of a file, without ends."""\n'],
  ["A class", "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"],
  ["A test", "import unittest\n\nclass TestSorting(unittest.TestCase):\n    def test_empty(self):\n"],
];

// actions: {use(text), setMode(mode)}
export function drawWelcome(node, isShown, mode, model, actions) {
  node.hidden = !isShown;
  const key = isShown ? `${mode} ${model?.hasTemplate} ${model?.isDemo}` : "none";
  if (node.dataset.key === key) return;
  node.dataset.key = key;
  if (!isShown) return;
  const isChat = mode === "chat";
  replace(node,
    el("img", { src: "/ui/icon.svg", alt: "", width: "48", height: "48" }),
    el("h2", {}, isChat ? "What shall we work on?" : "Begin a text, the model goes on"),
    el("p", { class: "welcome-note" }, noteOf(model, isChat)),
    model?.hasTemplate === true ? modeSwitch(mode, actions.setMode) : null,
    el("div", { class: "starters" }, ...(isChat ? CHAT : COMPLETION).map(([name, text]) =>
      el("button", { type: "button", class: `starter${isChat ? "" : " code"}`, onclick: () => actions.use(text) },
        el("strong", {}, name), el("span", {}, text)))));
}

function noteOf(model, isChat) {
  if (model?.isDemo) {
    return isChat ? "This is the demo model. It was never shown a conversation: what it answers makes no sense."
      : "This is the demo model, small enough to come with the program: what it writes looks like Python, and seldom " +
        "works. Begin some code, or take one of these, and see how much of it is drafted.";
  }
  return model?.hasTemplate === false ? "This model has no chat template: it continues texts." : "";
}

function modeSwitch(mode, setMode) {
  const option = (name, text) => el("button", {
    type: "button", "aria-pressed": String(mode === name), onclick: () => setMode(name),
  }, text);
  return el("div", { class: "modes", role: "group", "aria-label": "What the model does" },
    option("chat", "Converse"), option("completion", "Complete a text"));
}
