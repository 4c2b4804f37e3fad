// The list of conversations: search, open, rename, delete.

import { matches, titleOf } from "./conversation.js";
import { el, iconButton, isComposing, replace } from "./dom.js";

const DAY = 24 * 60 * 60 * 1000;

export class Sidebar {
  // actions: {open, rename, remove, exportOne}
  constructor(list, search, actions) {
    Object.assign(this, { list, search, actions });
    this.conversations = [];
    this.currentId = null;
    this.renamingId = null;
    search.addEventListener("input", () => this.drawList());
    search.addEventListener("keydown", (event) => this.onSearchKey(event));
    list.addEventListener("keydown", (event) => this.onListKey(event));
  }

  draw(conversations, currentId) {
    this.conversations = [...conversations].sort((a, b) => b.updated - a.updated);
    this.currentId = currentId;
    if (this.renamingId === null) this.drawList();
  }

  drawList() {
    const query = this.search.value.trim();
    const found = query ? this.conversations.filter((one) => matches(one, query)) : this.conversations;
    const hadFocus = this.list.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    const items = [];
    let group = null;
    for (const conversation of found) {
      const name = query ? null : groupOf(conversation.updated);
      if (name !== group) items.push(el("li", { class: "group", role: "presentation" }, name));
      group = name;
      items.push(this.item(conversation));
    }
    const nothing = query ? "Nothing found." : "Conversations stay in this browser.";
    if (found.length === 0) items.push(el("li", { class: "empty" }, nothing));
    replace(this.list, ...items);
    if (hadFocus) this.list.querySelector(`[data-id="${CSS.escape(hadFocus)}"]`)?.focus();
  }

  item(conversation) {
    const title = titleOf(conversation);
    const open = el("button", {
      type: "button", class: "conversation-open", "data-id": conversation.id, title,
      "aria-current": conversation.id === this.currentId ? "true" : null,
      onclick: () => this.actions.open(conversation.id),
    }, title);
    const item = el("li", { class: "conversation" }, open,
      el("span", { class: "conversation-actions" },
        iconButton("edit", `Rename: ${title}`, () => this.rename(item, conversation)),
        iconButton("download", `Export: ${title}`, () => this.actions.exportOne(conversation)),
        iconButton("trash", `Delete: ${title}`, () => this.actions.remove(conversation))));
    return item;
  }

  rename(item, conversation) {
    this.renamingId = conversation.id;
    const field = el("input", {
      class: "rename", "aria-label": "Name of the conversation", value: titleOf(conversation), maxlength: "200",
    });
    const finish = (keep) => {
      if (this.renamingId === null) return;
      this.renamingId = null;
      if (keep && field.value.trim()) this.actions.rename(conversation, field.value.trim());
      this.drawList();
      this.list.querySelector(`[data-id="${CSS.escape(conversation.id)}"]`)?.focus();
    };
    field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter" && !isComposing(event)) finish(true);
      if (event.key === "Escape") finish(false);
    });
    field.addEventListener("blur", () => finish(true));
    replace(item, field);
    field.select();
  }

  onSearchKey(event) {
    if (event.key === "Escape" && this.search.value) {
      event.stopPropagation();
      this.search.value = "";
      this.drawList();
    } else if (event.key === "ArrowDown" || event.key === "Enter") {
      const first = this.list.querySelector(".conversation-open");
      event.preventDefault();
      if (event.key === "Enter") first?.click();
      else first?.focus();
    }
  }

  onListKey(event) {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const all = [...this.list.querySelectorAll(".conversation-open")];
    const index = all.indexOf(document.activeElement);
    if (index < 0) return;
    event.preventDefault();
    const next = all[index + (event.key === "ArrowDown" ? 1 : -1)];
    (next ?? (event.key === "ArrowUp" ? this.search : null))?.focus();
  }
}

function groupOf(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return "Today";
  if (time >= today - DAY) return "Yesterday";
  if (time >= today - 6 * DAY) return "This week";
  return new Date(time).toLocaleDateString("en", { month: "long", year: "numeric" });
}
