// What an empty conversation shows: the model, and ways to begin.

import { el, replace } from "./dom.js";

const CHAT = [
  ["Explain", "Explain how speculative decoding makes a language model faster, with a small example."],
  ["Write", "Write a Python function that merges overlapping intervals, with tests."],
  ["Compare", "Compare SQLite and PostgreSQL for a small web service, as a table."],
];
const COMPLETION = [
  ["A function", 'def fibonacci(n):\n    """Return the first n Fibonacci numbers."""\n'],
  ["A class", "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"],
  ["A test", "import unittest\n\nclass TestSorting(unittest.TestCase):\n    def test_empty(self):\n"],
];

export function drawWelcome(node, isShown, model, use) {
  node.hidden = !isShown;
  const kind = !isShown ? "none" : model?.hasTemplate === false ? "completion" : "chat";
  if (node.dataset.kind === kind) return;
  node.dataset.kind = kind;
  if (!isShown) return;
  const isChat = kind === "chat";
  replace(node,
    el("img", { src: "/ui/icon.svg", alt: "", width: "48", height: "48" }),
    el("h2", {}, isChat ? "What shall we work on?" : "Begin a text, the model goes on"),
    isChat ? null : el("p", {}, "This model has no chat template: it continues what it is given."),
    el("div", { class: "starters" }, ...(isChat ? CHAT : COMPLETION).map(([name, text]) =>
      el("button", { type: "button", class: `starter${isChat ? "" : " code"}`, onclick: () => use(text) },
        el("strong", {}, name), el("span", {}, text)))));
}
