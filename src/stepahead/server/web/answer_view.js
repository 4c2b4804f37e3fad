// An answer: reasoning, folded; text; calls of tools; what went wrong. Drawn again, in part, while it streams.

import { copyButton, el, icon, iconButton, replace } from "./dom.js";
import { CodeView } from "./code_view.js";
import { branchControls } from "./branches.js";
import { MarkdownView } from "./markdown.js";
import { toLines } from "./markdown_blocks.js";
import { speedText } from "./strip.js";
import { MarkedText } from "./tint.js";
import { Waiting, isBegun } from "./waiting.js";

export class AnswerView {
  // actions: {retry, choose, answerCalls, useKey} of the transcript; siblings: {index, count}.
  constructor(turn, siblings, actions) {
    Object.assign(this, { turn, actions });
    this.text = new MarkdownView();
    this.tint = new MarkedText("accepted");
    this.reasoning = new ReasoningFold();
    this.calls = el("div", { class: "calls" });
    this.callViews = [];
    this.waiting = new Waiting();
    this.problem = el("div", {});
    this.tools = el("div", { class: "turn-actions" });
    this.node = el("article", { class: "turn answer", "data-id": turn.id },
      el("h2", { class: "visually-hidden" }, "Answer"), this.reasoning.node, this.text.node, this.waiting.node,
      this.calls, this.problem, this.tools);
    this.update(siblings);
  }

  update(siblings = this.siblings) {
    const { turn } = this;
    this.siblings = siblings;
    const isStreaming = turn.status === "streaming";
    this.node.setAttribute("aria-busy", String(isStreaming));
    this.reasoning.update(turn, isStreaming);
    if (!this.isSelectedIn() || !isStreaming) this.updateText(!isStreaming);
    this.waiting.update(turn.progress, isStreaming && !isBegun(turn));
    this.updateCalls(isStreaming);
    if (!isStreaming || this.wasStreaming !== isStreaming) this.updateFrame(isStreaming);
    this.wasStreaming = isStreaming;
  }

  // While somebody selects text in the part that would be drawn again, it waits.
  isSelectedIn() {
    const selection = document.getSelection();
    return !selection.isCollapsed && this.text.openNodes.some((node) => selection.containsNode(node, true));
  }

  updateText(isComplete) {
    this.text.update(this.turn.content, isComplete);
    this.retint();
  }

  retint() {
    this.tint.update(this.turn.accepted, ...this.text.allMarks());
  }

  updateCalls(isStreaming) {
    for (const [index, call] of this.turn.toolCalls.entries()) {
      if (!this.callViews[index]) {
        this.callViews[index] = new CallView();
        this.calls.append(this.callViews[index].node);
      }
      this.callViews[index].update(call, isStreaming);
    }
  }

  updateFrame(isStreaming) {
    replace(this.problem, isStreaming ? null : this.problemOf());
    replace(this.tools, ...(isStreaming ? [] : this.actionButtons()));
  }

  problemOf() {
    const { turn, actions } = this;
    if (turn.status === "stopped") return el("p", { class: "note" }, "Stopped.");
    if (turn.status === "length") return el("p", { class: "note" }, "Cut off: the limit of tokens was reached.");
    if (turn.status !== "error") {
      const isOpen = turn.toolCalls.length > 0 && turn.children.length === 0;
      return isOpen ? resultForm(turn, actions.answerCalls) : null;
    }
    return problemCard(turn, actions);
  }

  actionButtons() {
    const { turn, actions } = this;
    return [
      branchControls(this.siblings, (offset) => actions.choose(turn, offset)),
      turn.content ? copyButton(() => turn.content, "Copy the answer") : null,
      turn.status === "error" ? null : iconButton("retry", "Answer again", () => actions.retry(turn)),
      turn.stats ? el("span", { class: "turn-stats" }, describe(turn.stats)) : null,
    ].filter(Boolean);
  }

  dispose() {
    this.tint.clear();
  }
}

export function problemCard(turn, actions) {
  const { error } = turn;
  const button = error?.status === 401
    ? el("button", { type: "button", class: "button", onclick: () => actions.useKey(turn) }, "Enter the API key")
    : el("button", { type: "button", class: "button", onclick: () => actions.retry(turn) }, icon("retry"), "Try again");
  const wait = error?.retryAfter ? ` The server suggests waiting ${Math.ceil(error.retryAfter)} s.` : "";
  return el("div", { class: "problem", role: "alert" }, icon("alert"),
    el("div", {}, el("p", {}, sentence(error?.message ?? "Something went wrong") + wait), button));
}

const sentence = (text) => text.slice(0, 1).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");

export function describe(stats) {
  const parts = [];
  if (stats.tokensPerSecond) parts.push(`${speedText(stats.tokensPerSecond)} tokens/s`);
  if (stats.numTokens) parts.push(`${stats.numTokens.toLocaleString("en")} tokens`);
  if (stats.numDrafted) parts.push(`${Math.round((100 * stats.numAccepted) / stats.numDrafted)} % of drafts accepted`);
  return parts.join(" · ");
}

class ReasoningFold {
  constructor() {
    this.label = el("span", { class: "reasoning-label" });
    this.glimpse = el("span", { class: "reasoning-glimpse", "aria-hidden": "true" });
    this.text = new MarkdownView();
    this.body = el("div", { class: "reasoning-body" }, this.text.node);
    const summary = el("summary", {}, icon("right"), this.label, this.glimpse);
    this.node = el("details", { class: "reasoning" }, summary, this.body);
    this.node.addEventListener("toggle", () => this.drawText());
    this.node.hidden = true;
    this.turn = null;
  }

  update(turn, isStreaming) {
    this.turn = turn;
    this.node.hidden = !turn.reasoning;
    if (!turn.reasoning) return;
    const isThinking = isStreaming && turn.reasoningMs === 0;
    this.node.classList.toggle("thinking", isThinking);
    const ms = isThinking && turn.reasoningFrom ? performance.now() - turn.reasoningFrom : turn.reasoningMs;
    const label = isThinking ? `Thinking, ${duration(ms)}` : ms > 0 ? `Thought for ${duration(ms)}` : "Reasoning";
    if (this.label.textContent !== label) this.label.textContent = label;
    this.glimpse.textContent = isThinking ? turn.reasoning.trimEnd().split("\n").at(-1).slice(-200) : "";
    this.drawText();
  }

  // What is folded away costs nothing.
  drawText() {
    if (this.node.open && this.turn) this.text.update(this.turn.reasoning, this.turn.status !== "streaming");
  }
}

function duration(ms) {
  const seconds = ms / 1000;
  if (seconds < 10) return `${Math.max(seconds, 0.1).toFixed(1)} s`;
  return seconds < 60 ? `${Math.round(seconds)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

class CallView {
  constructor() {
    this.name = el("code", { class: "call-name" });
    this.state = el("span", { class: "call-state" });
    this.body = el("div", { class: "call-body" });
    this.node = el("details", { class: "call", open: true },
      el("summary", {}, icon("tool"), el("span", {}, "Calls "), this.name, this.state, icon("right")), this.body);
    this.drawn = null;
  }

  update(call, isStreaming) {
    this.name.textContent = call.name;
    this.state.textContent = call.isComplete ? "" : isStreaming ? "writing…" : "unfinished";
    if (this.drawn === call.arguments + call.isComplete) return;
    this.drawn = call.arguments + call.isComplete;
    const view = new CodeView("json");
    view.update(toLines(call.isComplete ? pretty(call.arguments) : call.arguments), true);
    replace(this.body, view.node);
  }
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

// The page runs no tools: who tries a tool writes its result by hand.
function resultForm(turn, answerCalls) {
  const areas = turn.toolCalls.map((call, index) =>
    el("textarea", { rows: "2", id: `result-${turn.id}-${index}`, spellcheck: "false" }));
  const form = el("form", { class: "results" },
    ...turn.toolCalls.flatMap((call, index) => [
      el("label", { for: areas[index].id }, "Result of ", el("code", {}, call.name)), areas[index],
    ]),
    el("button", { class: "button", type: "submit" }, "Send results"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    answerCalls(turn, areas.map((area) => area.value));
  });
  return form;
}
