// A model without a chat template completes: what was written and what the model added are one text, in which the
// user's own part has another ground.

import { describe, problemCard } from "./answer_view.js";
import { branchControls } from "./branches.js";
import { CodeView } from "./code_view.js";
import { shown, siblings } from "./conversation.js";
import { copyButton, el, icon, iconButton, replace } from "./dom.js";
import { guessLanguage } from "./highlight.js";
import { toLines } from "./markdown_blocks.js";
import { MarkedText } from "./tint.js";
import { Waiting, isBegun } from "./waiting.js";

export class DocumentView {
  constructor(frame, jumpButton, actions) {
    Object.assign(this, { frame, jumpButton, actions });
    this.text = el("div", { class: "document-text", role: "group", tabindex: "0", "aria-label": "Text" });
    this.foot = el("div", { class: "turn-actions document-actions" });
    this.problem = el("div", {});
    this.waiting = new Waiting();
    this.node = el("article", { class: "document" }, this.text, this.waiting.node, this.problem, this.foot);
    this.marks = { accepted: new MarkedText("accepted"), own: new MarkedText("own") };
    frame.append(this.node);
  }

  draw(conversation) {
    if (this.conversation !== conversation || this.isEditing) this.clear();
    this.conversation = conversation;
    const turns = shown(conversation);
    this.node.hidden = turns.length === 0;
    this.drawText();
    this.drawFoot(turns.at(-1));
  }

  drawText() {
    const text = this.wholeText();
    const language = guessLanguage(text);
    if (!this.view || this.view.name !== language || !text.startsWith(this.drawn)) {
      this.clear();
      this.node.hidden = shown(this.conversation).length === 0;
      this.view = new CodeView(language);
      replace(this.text, this.view.code);
    }
    this.drawn = text;
    this.view.update(toLines(text), false);
    this.retint();
  }

  // Where in the whole text the stretches of its turns are.
  stretches() {
    const found = { accepted: [], own: [] };
    let at = 0;
    for (const turn of shown(this.conversation)) {
      const begin = at;
      at += turn.content.length;
      if (turn.role === "user") found.own.push(begin, at);
      else found.accepted = found.accepted.concat(turn.accepted.map((offset) => begin + offset));
    }
    return found;
  }

  retint() {
    if (!this.view) return;
    const stretches = this.stretches();
    for (const [name, marked] of Object.entries(this.marks)) {
      marked.update(stretches[name], this.view.marks, this.view.lastMarks);
    }
  }

  drawFoot(turn) {
    const isStreaming = turn?.status === "streaming";
    this.text.setAttribute("aria-busy", String(isStreaming));
    this.drawWaiting(turn);
    replace(this.problem, turn?.status === "error" ? problemCard(turn, this.actions) : endNote(turn));
    if (!turn || isStreaming) return replace(this.foot);
    const ids = siblings(this.conversation, turn);
    return replace(this.foot,
      branchControls({ index: ids.indexOf(turn.id), count: ids.length }, (offset) => this.actions.choose(turn, offset)),
      copyButton(() => this.wholeText(), "Copy the text"),
      iconButton("edit", "Edit the text", () => this.edit()),
      turn.role === "assistant" ? iconButton("retry", "Continue another way", () => this.actions.retry(turn)) : null,
      turn.status === "error" ? null : this.goOnButton(),
      turn.stats ? el("span", { class: "turn-stats" }, describe(turn.stats)) : null);
  }

  goOnButton() {
    const title = "Continue the text (Enter in an empty field)";
    return el("button", { type: "button", class: "text-button", title, onclick: () => this.actions.goOn() },
      icon("play"), "Go on");
  }

  drawWaiting(turn) {
    this.waiting.update(turn?.progress, turn?.status === "streaming" && !isBegun(turn) && Boolean(turn.progress));
  }

  wholeText() {
    return shown(this.conversation).map((turn) => turn.content).join("");
  }

  update(turn) {
    const isAtEnd = this.frame.scrollHeight - this.frame.scrollTop - this.frame.clientHeight < 80;
    this.drawText();
    this.drawWaiting(turn);
    if (turn.status !== "streaming") this.drawFoot(turn);
    if (isAtEnd) this.toEnd();
  }

  edit() {
    const area = el("textarea", {
      class: "edit-area document-edit", "aria-label": "Edit the text", value: this.wholeText(),
    });
    const close = () => this.draw(this.conversation);
    area.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      close();
    });
    area.style.height = `${Math.min(this.text.offsetHeight + 2, 480)}px`;
    this.clear();
    this.node.hidden = false;
    this.isEditing = true;
    this.text.append(area);
    replace(this.problem);
    replace(this.foot, el("div", { class: "edit-buttons" },
      el("button", { type: "button", class: "button quiet", onclick: close }, "Cancel"),
      el("button", { type: "button", class: "button", onclick: () => this.actions.editText(area.value) }, "Keep")));
    area.focus();
  }

  editLast() {
    this.edit();
    return true;
  }

  clear() {
    for (const marked of Object.values(this.marks)) marked.clear();
    Object.assign(this, { view: null, drawn: "", isEditing: false });
    this.text.replaceChildren();
    this.node.hidden = true;
  }

  toEnd() {
    this.frame.scrollTop = this.frame.scrollHeight;
  }
}

// A completion that was cut off is nothing to tell: it goes on when asked to.
function endNote(turn) {
  const words = { stopped: "Stopped.", done: turn?.role === "assistant" ? "The model ends the text here." : "" };
  const text = words[turn?.status];
  return text ? el("p", { class: "note" }, text) : null;
}
