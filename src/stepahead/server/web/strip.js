// The live strip: how fast, how deep, and how many drafts each position keeps.

import { el, icon, replace } from "./dom.js";
import { canTint, isTinted } from "./tint.js";

const MAX_POSITIONS = 16;
const MAX_NUMBERS = 4; // more positions show their bars alone

export class Strip {
  constructor(node, ontint) {
    this.speed = figure("Tokens a second", "tokens/s");
    this.depth = figure("Draft tokens in the last step", "depth");
    this.bars = el("span", { class: "bars", role: "img" });
    this.acceptance = el("span", { class: "figure acceptance", hidden: true },
      this.bars, el("span", { class: "figure-name" }, "% accepted"));
    this.context = el("span", { class: "figure context", hidden: true });
    this.tint = el("button", {
      type: "button", class: "tint-button", "aria-pressed": String(isTinted()), hidden: !canTint,
      title: "Mark text that was drafted and accepted (Alt+T)", onclick: ontint,
    }, icon("tint"), el("span", { class: "tint-legend" }, "drafted", el("span", { class: "wide-only" }, " text")));
    const spacer = el("span", { class: "spacer" });
    replace(node, this.speed.node, this.depth.node, this.acceptance, spacer, this.context, this.tint);
    this.node = node;
    this.slots = [];
  }

  // An empty conversation has nothing to show.
  setShown(isShown) {
    this.node.classList.toggle("quiet", !isShown);
  }

  // live: LiveStats of an answer that streams.
  live(live) {
    this.speed.set(speedText(live.speed()) ?? (live.numSteps > 0 ? "…" : null));
    this.depth.set(live.depth === null ? null : String(live.depth));
    this.drawBars(live.draftedAt.map((drafted, i) => live.acceptedAt[i] / drafted));
  }

  // stats: of the last answer, as conversation.js keeps them; null: nothing to show.
  final(stats, contextLength) {
    this.speed.set(speedText(stats?.tokensPerSecond));
    const depth = stats?.numSteps > 1 && Number.isFinite(stats.depth) ? stats.depth : null;
    this.depth.set(depth === 0 ? "0" : depth?.toFixed(1) ?? null);
    this.drawBars(stats?.acceptance ?? []);
    const used = stats?.promptTokens != null ? stats.promptTokens + stats.numTokens : null;
    this.context.hidden = used === null;
    if (used === null) return;
    const [usedText, lengthText] = [used, contextLength].map((count) => count?.toLocaleString("en"));
    const cached = stats.cachedTokens ? `; ${stats.cachedTokens.toLocaleString("en")} were computed before` : "";
    this.context.title = `Tokens of the conversation so far${cached}`;
    const text = lengthText ? `${usedText} / ${lengthText}` : usedText;
    replace(this.context, text, el("span", { class: "figure-name" }, "context"));
  }

  drawBars(rates) {
    const known = rates.slice(0, MAX_POSITIONS);
    this.acceptance.hidden = known.length === 0;
    this.bars.classList.toggle("compact", known.length > MAX_NUMBERS);
    while (this.slots.length < known.length) {
      const slot = { fill: el("span", { class: "bar-fill" }), text: el("span", { class: "bar-text" }) };
      slot.node = el("span", { class: "bar-slot" }, el("span", { class: "bar" }, slot.fill), slot.text);
      this.slots.push(slot);
    }
    if (this.bars.childElementCount !== known.length) {
      replace(this.bars, ...this.slots.slice(0, known.length).map((slot) => slot.node));
    }
    for (const [index, rate] of known.entries()) {
      this.slots[index].fill.style.transform = `scaleY(${rate.toFixed(3)})`;
      this.slots[index].text.textContent = String(Math.round(100 * rate));
    }
    const words = known.map((rate, index) => `position ${index + 1}: ${Math.round(100 * rate)} %`).join(", ");
    this.bars.setAttribute("aria-label", `Accepted drafts, ${words}`);
    this.acceptance.title = `Drafts accepted when this position was drafted; ${words}`;
  }

  drawTint() {
    this.tint.setAttribute("aria-pressed", String(isTinted()));
  }
}

export function speedText(speed) {
  if (speed === null || speed === undefined) return null;
  return speed < 100 ? speed.toFixed(1) : Math.round(speed).toLocaleString("en");
}

function figure(title, name) {
  const value = el("span", { class: "figure-value" });
  const node = el("span", { class: "figure", title, hidden: true }, value, el("span", { class: "figure-name" }, name));
  return {
    node,
    set(text) {
      node.hidden = text === null;
      value.textContent = text ?? "";
    },
  };
}
