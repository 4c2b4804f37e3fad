// What the user wrote, or the result of a tool; the user's own can be edited, which begins a branch.

import { branchControls } from "./branches.js";
import { copyButton, el, icon, iconButton, isComposing, replace } from "./dom.js";

export class QuestionView {
  constructor(turn, siblings, actions) {
    Object.assign(this, { turn, actions });
    this.isTool = turn.role === "tool";
    this.body = el("div", { class: "question-body" });
    this.tools = el("div", { class: "turn-actions" });
    this.node = el("article", { class: `turn question${this.isTool ? " tool-result" : ""}`, "data-id": turn.id },
      el("h2", { class: "visually-hidden" }, this.isTool ? "Result of a tool" : "Your message"), this.body, this.tools);
    this.update(siblings);
  }

  update(siblings) {
    this.siblings = siblings;
    if (this.isEditing) return;
    const text = el("div", { class: "bubble" }, this.turn.content);
    replace(this.body, this.isTool ? el("p", { class: "result-label" }, icon("tool"), "Result") : null, text);
    replace(this.tools, branchControls(siblings, (offset) => this.actions.choose(this.turn, offset)),
      copyButton(() => this.turn.content, "Copy the message"),
      this.isTool ? null : iconButton("edit", "Edit the message", () => this.edit()));
  }

  edit() {
    this.isEditing = true;
    const area = el("textarea", { class: "edit-area", "aria-label": "Edit the message", value: this.turn.content });
    const fit = () => {
      area.style.height = "auto";
      area.style.height = `${Math.min(area.scrollHeight + 2, 400)}px`;
    };
    const close = () => {
      this.isEditing = false;
      this.update(this.siblings);
      this.node.querySelector('[aria-label="Edit the message"]')?.focus();
    };
    const send = () => {
      if (!area.value.trim()) return;
      this.isEditing = false;
      this.actions.edit(this.turn, area.value);
    };
    area.addEventListener("input", fit);
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && !event.shiftKey && !isComposing(event)) {
        event.preventDefault();
        send();
      }
    });
    replace(this.body, area, el("div", { class: "edit-buttons" },
      el("button", { type: "button", class: "button quiet", onclick: close }, "Cancel"),
      el("button", { type: "button", class: "button", onclick: send }, "Send")));
    replace(this.tools);
    fit();
    area.focus();
  }

  dispose() {}
}
