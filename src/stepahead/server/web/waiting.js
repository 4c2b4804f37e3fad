// What is seen of an answer before its first word: that it waits for a place, and how far its prompt is read.

import { el } from "./dom.js";

export class Waiting {
  constructor() {
    this.words = el("span", { class: "waiting-text" });
    this.bar = el("progress", { class: "waiting-bar", max: "1", "aria-label": "Prompt read", hidden: true });
    this.node = el("div", { class: "waiting" }, el("i"), el("i"), el("i"), this.words, this.bar);
  }

  // progress: prompt_progress of a stream, if it told any.
  update(progress, isShown) {
    this.node.hidden = !isShown;
    if (!isShown) return;
    const words = progressText(progress);
    if (this.words.textContent !== words) this.words.textContent = words;
    this.bar.hidden = !(progress?.total > 0) || progress.queued === true;
    if (!this.bar.hidden) this.bar.value = progress.processed / progress.total;
  }
}

export const isBegun = (turn) => Boolean(turn.content || turn.reasoning || turn.toolCalls.length);

export function progressText(progress) {
  if (progress?.queued) return "Waiting for a free place";
  if (!progress?.total) return "";
  const [read, total, cached] = ["processed", "total", "cache"].map((name) => count(progress[name]));
  return `Reading: ${read} of ${total} tokens${progress.cache > 0 ? `, ${cached} of them known already` : ""}`;
}

const count = (number) => (number ?? 0).toLocaleString("en");
