// The page: puts the parts together.

import { askKey, confirmed, showModel, showShortcuts, wireDialogs } from "./dialogs.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { DocumentView } from "./document_view.js";
import { Painter } from "./painter.js";
import { Sidebar } from "./sidebar.js";
import { SettingsDialog, readSettings } from "./settings.js";
import { Strip } from "./strip.js";
import { Transcript } from "./transcript.js";
import { drawWelcome } from "./welcome.js";
import { download, fromFile, toFile } from "./transfer.js";
import { el, icon, iconButton, replace } from "./dom.js";
import { loadModel, storeKey } from "./api.js";
import { openStore } from "./store.js";
import { isTinted, setTint } from "./tint.js";
import { isBegun } from "./waiting.js";
import { shown, titleOf } from "./conversation.js";
import { wireKeyboard } from "./keyboard.js";

const $ = (selector) => document.querySelector(selector);
const RETRY_MS = 2500;
const MAX_SPOKEN = 2000;

class App {
  constructor(store, settings) {
    this.store = store;
    this.settings = settings;
    setTint(settings.isTinted);
    this.painter = new Painter(() => this.drawProgress());
    this.chat = new Chat(store, settings, {
      onchange: () => this.draw(),
      onprogress: (conversation) => conversation === this.chat.current && this.painter.ask(),
      onend: (conversation, turn) => this.onEnd(conversation, turn),
    });
    const { chat } = this;
    const actions = {
      retry: (turn) => chat.retry(turn), choose: (turn, offset) => chat.choose(turn, offset),
      edit: (turn, text) => chat.edit(turn, text), editText: (text) => chat.editText(text),
      answerCalls: (turn, results) => chat.answerCalls(turn, results), useKey: (turn) => this.useKey(turn),
      settings: () => this.openSettings(), goOn: () => this.send(""),
    };
    this.transcript = new Transcript($(".frame"), $(".jump"), actions);
    this.document = new DocumentView($(".frame"), $(".jump"), actions);
    this.strip = new Strip($(".strip"), () => this.toggleTint());
    this.composer = new Composer($(".composer"), {
      send: (text) => this.send(text), stop: () => chat.stop(), editLast: () => this.view.editLast(),
      tell: (problem) => this.notice(problem, ["Close", () => this.notice(null)]),
    });
    this.sidebar = new Sidebar($(".conversations"), $(".search"), {
      open: (id) => this.open(id), rename: (conversation, title) => chat.rename(conversation, title),
      remove: (conversation) => this.remove(conversation),
      exportOne: (conversation) => download(toFile([conversation])),
    });
    this.dialog = new SettingsDialog($("#settings-dialog"), {
      save: (changed, system) => this.saveSettings(changed, system), theme: () => globalThis.theme.get(),
      setTheme: (name) => this.setTheme(name), importFile: (file) => this.importFile(file),
      exportAll: () => download(toFile([...chat.conversations.values()])),
      forgetKey: () => this.forgetKey(), removeAll: () => this.removeAll(),
    });
    this.wire();
  }

  get view() {
    return this.chat.current.mode === "chat" ? this.transcript : this.document;
  }

  wire() {
    wireDialogs();
    $(".new-conversation").prepend(icon("plus"));
    $(".new-conversation").addEventListener("click", () => this.startNew());
    $(".show-sidebar").append(icon("menu"));
    $(".close-sidebar").append(icon("list"));
    $(".jump").append(icon("end"));
    for (const selector of [".show-sidebar", ".close-sidebar", ".veil"]) {
      $(selector).addEventListener("click", () => this.toggleSidebar());
    }
    this.themeButton = iconButton("auto", "Theme", () => this.nextTheme());
    $(".sidebar-foot").append(iconButton("settings", "Settings", () => this.openSettings()), this.themeButton,
      iconButton("keyboard", "Keyboard", () => showShortcuts()));
    $(".model-button").addEventListener("click", () => showModel(this.chat.model));
    this.drawTheme();
    wireKeyboard({
      newConversation: () => this.startNew(), retryLast: () => this.chat.retryLast(), search: () => this.search(),
      toggleSidebar: () => this.toggleSidebar(), settings: () => this.openSettings(), showShortcuts,
      toggleTint: () => this.toggleTint(), focusComposer: () => this.composer.focus(), escape: () => this.escape(),
    });
    addEventListener("hashchange", () => this.openHash());
    addEventListener("pagehide", () => this.chat.save(this.chat.current));
    this.store.onfailure = () => this.tellNoStorage();
    if (!this.store.isLasting) this.tellNoStorage();
  }

  async start() {
    this.draw();
    this.composer.focus();
    await this.chat.load();
    this.openHash();
    this.draw();
    await this.connect();
  }

  // Until the server is there and its model is loaded.
  async connect() {
    for (;;) {
      try {
        this.chat.setModel(await loadModel());
        if (this.isWaiting) this.notice(null);
        this.isWaiting = false;
        return;
      } catch (error) {
        if (error.status === 401) {
          if (await askKey(true)) continue;
          return this.notice("This server asks for an API key.", ["Enter it", () => this.connect()]);
        }
        this.isWaiting = true;
        this.notice(error.status === 503 ? "The model is being loaded…" : error.message);
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  draw() {
    const { chat } = this;
    const { current } = chat;
    const isEmpty = shown(current).length === 0;
    const [view, other] = current.mode === "chat" ? [this.transcript, this.document] : [this.document, this.transcript];
    other.clear();
    view.draw(current);
    drawWelcome($(".welcome"), isEmpty, current.mode, chat.model, {
      use: (text) => {
        this.composer.set(text);
        this.composer.focus();
      },
      setMode: (mode) => {
        chat.setMode(mode);
        this.composer.focus();
      },
    });
    const title = isEmpty ? "New conversation" : titleOf(current);
    $(".title").textContent = title;
    document.title = isEmpty ? "stepahead" : `${title} · stepahead`;
    const model = chat.model?.id ?? "";
    replace($(".model-button"), model ? icon("bolt") : null, el("span", {}, model));
    $(".model-button").title = model;
    $(".model-button").hidden = !model;
    this.composer.setMode(current.mode);
    this.composer.setStreaming(chat.isRunning);
    this.composer.setMayBeEmpty(current.mode === "completion" && !isEmpty);
    this.sidebar.draw(chat.conversations.values(), current.id);
    this.strip.setShown(!isEmpty);
    this.drawStrip();
  }

  drawStrip() {
    const running = this.chat.running.get(this.chat.current.id);
    if (running?.turn.live) return this.strip.live(running.turn.live);
    const last = shown(this.chat.current).findLast((turn) => turn.stats);
    return this.strip.final(last?.stats ?? null, this.chat.model?.contextLength);
  }

  drawProgress() {
    const running = this.chat.running.get(this.chat.current.id);
    if (!running) return;
    this.view.update(running.turn);
    this.drawStrip();
    if (running.turn.progress?.queued && !isBegun(running.turn)) this.announce("Waiting for a free place.");
  }

  send(text) {
    const title = titleOf(this.chat.current);
    this.chat.send(text);
    this.view.toEnd();
    if (title === "New conversation") this.setHash(this.chat.current.id);
    this.announce("");
  }

  onEnd(conversation, turn) {
    const { conversations, current } = this.chat;
    if (conversation !== current) return this.sidebar.draw(conversations.values(), current.id);
    this.view.update(turn);
    this.draw();
    const said = turn.content.slice(0, MAX_SPOKEN) + (turn.content.length > MAX_SPOKEN ? " …" : "");
    const calls = turn.toolCalls.map((call) => `Calls ${call.name}.`).join(" ");
    const words = { stopped: "Stopped.", error: "" }[turn.status] ?? `Answer: ${said} ${calls}`;
    this.announce(words);
    if (turn.error?.status === 401) this.useKey(turn);
    return undefined;
  }

  announce(words) {
    if ($("#announcer").textContent !== words) $("#announcer").textContent = words;
  }

  async useKey(turn) {
    if (await askKey(true)) {
      if (!this.chat.model) this.connect();
      this.chat.retry(turn);
    }
  }

  forgetKey() {
    storeKey("");
    this.notice("The key is forgotten.", ["Close", () => this.notice(null)]);
  }

  startNew() {
    this.hideSidebarOnPhones();
    this.setHash(null);
    this.chat.startNew();
    this.composer.focus();
  }

  open(id) {
    this.hideSidebarOnPhones();
    if (this.chat.current.id !== id && this.chat.open(id)) {
      this.setHash(id);
      this.view.toEnd();
    }
    this.composer.focus();
  }

  setHash(id) {
    history.pushState(null, "", id ? `#c-${id}` : location.pathname);
  }

  openHash() {
    const id = /^#c-(\w+)$/.exec(location.hash)?.[1];
    if (id && id !== this.chat.current.id && this.chat.open(id)) this.view.toEnd();
    else if (location.hash === "" && shown(this.chat.current).length > 0) this.chat.startNew();
  }

  async remove(conversation) {
    if (!(await confirmed(`Delete “${titleOf(conversation)}”?`, "Delete"))) return;
    this.chat.remove(conversation);
    if (shown(this.chat.current).length === 0) this.setHash(null);
  }

  async removeAll() {
    const all = [...this.chat.conversations.values()];
    this.dialog.dialog.close();
    if (all.length > 0 && (await confirmed(`Delete all ${all.length} conversations?`, "Delete all"))) {
      for (const conversation of all) this.chat.remove(conversation);
      this.setHash(null);
    }
  }

  async importFile(file) {
    this.dialog.dialog.close();
    try {
      const conversations = fromFile(await file.text());
      this.chat.add(conversations);
      this.notice(`Imported: ${conversations.length}.`, ["Close", () => this.notice(null)]);
    } catch (error) {
      this.notice(error.message, ["Close", () => this.notice(null)]);
    }
  }

  openSettings() {
    this.dialog.open(this.settings, this.chat.current, this.chat.model?.sampling ?? {});
  }

  saveSettings(changed, system) {
    Object.assign(this.settings, changed);
    this.store.saveSettings(this.settings);
    if (system !== null) this.chat.setSystem(system);
    this.draw();
  }

  toggleTint() {
    setTint(!isTinted());
    this.settings.isTinted = isTinted();
    this.store.saveSettings(this.settings);
    this.view.retint();
    this.strip.drawTint();
  }

  setTheme(name) {
    globalThis.theme.set(name);
    this.drawTheme();
  }

  nextTheme() {
    this.setTheme({ auto: "light", light: "dark", dark: "auto" }[globalThis.theme.get()]);
  }

  drawTheme() {
    const name = globalThis.theme.get();
    replace(this.themeButton, icon({ auto: "auto", light: "sun", dark: "moon" }[name]));
    const label = `Theme: ${name === "auto" ? "as the system" : name}`;
    this.themeButton.setAttribute("aria-label", label);
    this.themeButton.title = label;
  }

  toggleSidebar() {
    const isPhone = matchMedia("(max-width: 760px)").matches;
    const name = isPhone ? "sidebar-open" : "sidebar-closed";
    document.body.classList.toggle(name);
    $(".veil").hidden = !document.body.classList.contains("sidebar-open");
    if (document.body.classList.contains("sidebar-open")) $(".close-sidebar").focus();
    else if (isPhone) $(".show-sidebar").focus();
  }

  hideSidebarOnPhones() {
    document.body.classList.remove("sidebar-open");
    $(".veil").hidden = true;
  }

  search() {
    if (matchMedia("(max-width: 760px)").matches) {
      if (!document.body.classList.contains("sidebar-open")) this.toggleSidebar();
    } else document.body.classList.remove("sidebar-closed");
    $(".search").focus();
    $(".search").select();
  }

  escape() {
    if (this.chat.isRunning) this.chat.stop();
    else if (document.body.classList.contains("sidebar-open")) this.toggleSidebar();
    else this.composer.focus();
  }

  tellNoStorage() {
    const text = "This window cannot keep conversations: they end with it. Export what you need.";
    this.notice(text, ["Close", () => this.notice(null)]);
  }

  // button: [text, action]
  notice(text, button = null) {
    const node = $(".notice");
    node.hidden = text === null;
    replace(node, text);
    if (!button) return;
    const control = document.createElement("button");
    control.type = "button";
    control.className = "button quiet";
    control.textContent = button[0];
    control.addEventListener("click", button[1]);
    node.append(control);
  }
}

const store = await openStore();
await new App(store, readSettings(await store.settings())).start();
