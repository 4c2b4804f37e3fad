// A model without a chat template completes: what was written and what the model added are one text.

import { describe, problemCard } from "./answer_view.js";
import { branchControls } from "./branches.js";
import { shown, siblings } from "./conversation.js";
import { copyButton, el, iconButton, replace } from "./dom.js";
import { TintedText } from "./tint.js";

export class DocumentView {
  constructor(frame, jumpButton, actions) {
    Object.assign(this, { frame, jumpButton, actions });
    this.text = el("div", { class: "document-text", role: "group", tabindex: "0", "aria-label": "Text" });
    this.foot = el("div", { class: "turn-actions document-actions" });
    this.problem = el("div", {});
    this.node = el("article", { class: "document" }, this.text, this.problem, this.foot);
    this.parts = new Map(); // of turns: {span, node, tint}
    frame.append(this.node);
  }

  draw(conversation) {
    this.conversation = conversation;
    this.clearParts();
    const turns = shown(conversation);
    this.node.hidden = turns.length === 0;
    for (const turn of turns) this.drawPart(turn);
    this.drawFoot(turns.at(-1));
  }

  drawPart(turn) {
    const node = document.createTextNode(turn.content);
    const isModel = turn.role === "assistant";
    const span = el("span", { class: isModel ? "by-model" : "by-user", "data-id": turn.id }, node);
    const part = { span, node, tint: new TintedText() };
    this.parts.set(turn.id, part);
    this.text.append(span);
    part.retint = () => part.tint.update(turn.accepted, [], [{ node, at: 0, length: node.length }]);
    part.retint();
  }

  drawFoot(turn) {
    const isStreaming = turn?.status === "streaming";
    this.text.setAttribute("aria-busy", String(isStreaming));
    replace(this.problem, turn?.status === "error" ? problemCard(turn, this.actions) : null);
    if (!turn || isStreaming) return replace(this.foot);
    const ids = siblings(this.conversation, turn);
    return replace(this.foot,
      branchControls({ index: ids.indexOf(turn.id), count: ids.length }, (offset) => this.actions.choose(turn, offset)),
      copyButton(() => this.wholeText(), "Copy the text"),
      iconButton("edit", "Edit the text", () => this.edit()),
      turn.role === "assistant" ? iconButton("retry", "Continue again, another way", () => this.actions.retry(turn)) : null,
      turn.stats ? el("span", { class: "turn-stats" }, describe(turn.stats)) : null);
  }

  wholeText() {
    return shown(this.conversation).map((turn) => turn.content).join("");
  }

  update(turn) {
    const isAtEnd = this.frame.scrollHeight - this.frame.scrollTop - this.frame.clientHeight < 80;
    const part = this.parts.get(turn.id);
    if (turn.content.length > part.node.length) part.node.appendData(turn.content.slice(part.node.length));
    part.retint();
    if (turn.status !== "streaming") this.drawFoot(turn);
    if (isAtEnd) this.frame.scrollTop = this.frame.scrollHeight;
  }

  retint() {
    for (const part of this.parts.values()) part.retint();
  }

  edit() {
    const area = el("textarea", { class: "edit-area document-edit", "aria-label": "Edit the text", value: this.wholeText() });
    const close = () => this.draw(this.conversation);
    const keep = () => this.actions.editText(area.value);
    area.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      close();
    });
    area.style.height = `${Math.min(this.text.offsetHeight + 48, 480)}px`;
    this.clearParts();
    this.text.append(area);
    replace(this.foot, el("button", { type: "button", class: "button quiet", onclick: close }, "Cancel"),
      el("button", { type: "button", class: "button", onclick: keep }, "Keep"));
    area.focus();
  }

  editLast() {
    this.edit();
    return true;
  }

  clearParts() {
    for (const part of this.parts.values()) part.tint.clear();
    this.parts.clear();
    this.text.replaceChildren();
  }

  clear() {
    this.clearParts();
    this.node.hidden = true;
  }

  toEnd() {
    this.frame.scrollTop = this.frame.scrollHeight;
  }
}
