// The turns that are shown. Follows the end while the reader is there, and leaves a reader who is not alone.

import { AnswerView } from "./answer_view.js";
import { shown, siblings } from "./conversation.js";
import { el } from "./dom.js";
import { QuestionView } from "./question_view.js";

const NEAR_END = 80;

export class Transcript {
  constructor(frame, jumpButton, actions) {
    Object.assign(this, { frame, jumpButton, actions });
    this.list = el("div", { class: "turns", role: "log", "aria-live": "off", "aria-label": "Conversation" });
    this.system = el("button", { type: "button", class: "system-note", onclick: () => actions.settings() });
    frame.append(this.system, this.list);
    this.views = new Map();
    this.isFollowing = true;
    this.lastTop = 0;
    frame.addEventListener("scroll", () => this.onScroll(), { passive: true });
    jumpButton.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.follow()).observe(this.list);
  }

  draw(conversation) {
    if (this.conversation !== conversation) this.clear();
    this.conversation = conversation;
    const turns = shown(conversation);
    const kept = new Set(turns.map((turn) => turn.id));
    for (const [id, view] of this.views) {
      if (kept.has(id)) continue;
      view.dispose();
      view.node.remove();
      this.views.delete(id);
    }
    for (const turn of turns) this.drawTurn(turn);
    this.system.textContent = `System prompt: ${conversation.system.trim().slice(0, 200)}`;
    this.system.hidden = !conversation.system.trim() || turns.length === 0;
    this.follow();
  }

  drawTurn(turn) {
    const ids = siblings(this.conversation, turn);
    const place = { index: ids.indexOf(turn.id), count: ids.length };
    const view = this.views.get(turn.id);
    if (view) view.update(place);
    else {
      const View = turn.role === "assistant" ? AnswerView : QuestionView;
      const made = new View(turn, place, this.actions);
      this.views.set(turn.id, made);
      this.list.append(made.node);
    }
  }

  // While a turn streams.
  update(turn) {
    this.views.get(turn.id)?.update();
  }

  clear() {
    for (const view of this.views.values()) view.dispose();
    this.views.clear();
    this.list.replaceChildren();
    this.system.hidden = true;
    this.isFollowing = true;
  }

  retint() {
    for (const view of this.views.values()) view.retint?.();
  }

  editLast() {
    const turn = shown(this.conversation).findLast((one) => one.role === "user");
    this.views.get(turn?.id)?.edit?.();
    return turn !== undefined;
  }

  onScroll() {
    const { scrollTop } = this.frame;
    if (this.isNearEnd()) this.isFollowing = true;
    else if (scrollTop < this.lastTop) this.isFollowing = false;
    this.lastTop = scrollTop;
    this.jumpButton.hidden = this.isFollowing;
  }

  isNearEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.frame;
    return scrollHeight - scrollTop - clientHeight < NEAR_END;
  }

  // Only who scrolls up leaves the end: an answer can grow by more than a screen between two scroll events.
  follow() {
    if (this.isFollowing) this.frame.scrollTop = this.frame.scrollHeight;
    this.jumpButton.hidden = this.isFollowing || this.isNearEnd();
  }

  toEnd() {
    this.isFollowing = true;
    this.follow();
    this.jumpButton.hidden = true;
  }
}
