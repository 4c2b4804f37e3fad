// Where the user writes. One button sends, and stops while an answer streams.

import { asMessageText } from "./attachment.js";
import { icon, isComposing, replace } from "./dom.js";

const MAX_HEIGHT = 240;

export class Composer {
  // actions: {send(text), stop(), editLast(), tell(problem)}
  constructor(form, actions) {
    Object.assign(this, { form, actions });
    this.field = form.querySelector("textarea");
    this.button = form.querySelector(".send");
    this.mode = "chat";
    this.setStreaming(false);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.isStreaming) this.actions.stop();
      else this.send();
    });
    this.wireFiles();
    this.field.addEventListener("input", () => this.fit());
    this.field.addEventListener("keydown", (event) => this.onKey(event));
  }

  wireFiles() {
    const [button, input] = [this.form.querySelector(".attach"), this.form.querySelector("#attachment")];
    button.append(icon("attach"));
    button.addEventListener("click", () => input.click());
    input.addEventListener("change", async () => {
      await this.add([...input.files]);
      input.value = "";
    });
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      this.add([...event.dataTransfer.files]);
    });
    this.field.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (files.length === 0) return;
      event.preventDefault();
      this.add(files);
    });
  }

  async add(files) {
    for (const file of files) {
      try {
        const text = await asMessageText(file, this.mode === "chat");
        this.set(`${this.field.value}${this.field.value && !this.field.value.endsWith("\n") ? "\n\n" : ""}${text}`);
      } catch (error) {
        this.actions.tell(error.message);
      }
    }
    this.focus();
  }

  setMode(mode) {
    this.mode = mode;
    const isChat = mode === "chat";
    this.field.setAttribute("aria-label", isChat ? "Message" : "Text to be continued");
    this.field.classList.toggle("code", !isChat);
    this.fit();
  }

  // An empty completion asks for more of the same text.
  setMayBeEmpty(may) {
    this.mayBeEmpty = may;
    this.field.placeholder = this.mode === "chat" ? "Write a message" : may ? "Add text, or press Enter to go on"
      : "Write the beginning of a text";
    this.fit();
  }

  setStreaming(isStreaming) {
    this.isStreaming = isStreaming;
    replace(this.button, icon(isStreaming ? "stop" : "send"));
    this.button.classList.toggle("stop", isStreaming);
    const label = isStreaming ? "Stop" : "Send";
    this.button.setAttribute("aria-label", label);
    this.button.title = isStreaming ? "Stop (Esc)" : "Send (Enter)";
    this.fit();
  }

  fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, MAX_HEIGHT)}px`;
    this.button.disabled = !this.isStreaming && !this.field.value.trim() && !this.mayBeEmpty;
  }

  send() {
    const text = this.field.value;
    if (!text.trim() && !this.mayBeEmpty) return;
    this.set("");
    this.actions.send(text);
  }

  set(text) {
    this.field.value = text;
    this.fit();
  }

  focus() {
    this.field.focus();
  }

  onKey(event) {
    if (isComposing(event)) return;
    const isPlain = !event.shiftKey && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (event.key === "Enter" && isPlain) {
      event.preventDefault();
      if (!this.isStreaming) this.send();
    } else if (event.key === "ArrowUp" && isPlain && this.field.value === "" && !this.isStreaming) {
      if (this.actions.editLast()) event.preventDefault();
    } else if (event.key === "Tab" && isPlain && this.mode === "completion" && this.field.value && !this.isLeaving) {
      event.preventDefault();
      this.field.setRangeText("    ", this.field.selectionStart, this.field.selectionEnd, "end");
    }
    this.isLeaving = event.key === "Escape"; // the way out for those who have no mouse
  }
}
