// The conversations and the answers that stream into them. Knows nothing of how anything is drawn.

import { ApiFailure } from "./api.js";
import { addNode, chooseSibling, lastTurn, newConversation, shown } from "./conversation.js";
import { forRequest } from "./settings.js";
import { dropPassing, runTurn } from "./turn.js";

const SAVE_MS = 2000;

export class Chat {
  // onchange(): what is shown changed; onprogress(conversation, turn): a streaming turn grew, onend: it is over.
  constructor(store, settings, { onchange, onprogress, onend }) {
    Object.assign(this, { store, settings, onchange, onprogress, onend });
    this.model = null;
    this.conversations = new Map();
    this.running = new Map(); // of conversations' ids: {controller, turn}
    this.current = newConversation("chat", settings.system);
    this.channel = typeof BroadcastChannel === "function" ? new BroadcastChannel("stepahead") : null;
    if (this.channel) this.channel.onmessage = ({ data }) => this.onOtherWindow(data);
  }

  async load() {
    for (const conversation of await this.store.conversations()) this.adopt(conversation);
  }

  // What was streaming when the page was closed did not end.
  adopt(conversation) {
    for (const node of Object.values(conversation.nodes)) {
      if (node.status === "streaming") node.status = "stopped";
      dropPassing(node);
    }
    this.conversations.set(conversation.id, conversation);
    if (this.current.id === conversation.id) this.current = conversation;
  }

  get isRunning() {
    return this.running.has(this.current.id);
  }

  setModel(model) {
    this.model = model;
    this.setMode(model.mode);
  }

  // A conversation that has begun keeps its mode.
  setMode(mode) {
    if (shown(this.current).length === 0) this.current.mode = mode;
    this.onchange();
  }

  startNew() {
    this.current = newConversation(this.model?.mode ?? "chat", this.settings.system);
    this.onchange();
  }

  open(id) {
    const conversation = this.conversations.get(id);
    if (!conversation) return false;
    this.current = conversation;
    this.onchange();
    return true;
  }

  send(text) {
    if (this.isRunning) return;
    const { current } = this;
    if (text) addNode(current, lastTurn(current).id, { role: "user", content: text });
    this.generate(current, lastTurn(current).id);
  }

  async edit(turn, text) {
    const { current } = this;
    await this.interrupt(current);
    const node = addNode(current, turn.parent, { role: "user", content: text });
    this.generate(current, node.id);
  }

  // Of a completion: the whole text becomes one turn, a new branch of the beginning.
  async editText(text) {
    const { current } = this;
    await this.interrupt(current);
    if (text) addNode(current, "root", { role: "user", content: text });
    this.save(current);
    this.onchange();
  }

  // An answer that failed before it said anything is no version worth keeping.
  retry(turn) {
    if (this.isRunning) return;
    const { nodes } = this.current;
    const isEmpty = turn.status === "error" && !turn.content && !turn.reasoning && turn.children.length === 0;
    if (isEmpty) {
      const parent = nodes[turn.parent];
      parent.children = parent.children.filter((id) => id !== turn.id);
      delete nodes[turn.id];
    }
    this.generate(this.current, turn.parent);
  }

  retryLast() {
    const turn = shown(this.current).findLast((one) => one.role === "assistant");
    if (turn) this.retry(turn);
  }

  answerCalls(turn, results) {
    if (this.isRunning) return;
    let parent = turn.id;
    for (const [index, call] of turn.toolCalls.entries()) {
      parent = addNode(this.current, parent, { role: "tool", toolCallId: call.id, content: results[index] }).id;
    }
    this.generate(this.current, parent);
  }

  choose(turn, offset) {
    chooseSibling(this.current, turn, offset);
    this.save(this.current);
    this.onchange();
  }

  stop(conversation = this.current) {
    this.running.get(conversation.id)?.controller.abort();
  }

  // One answer at a time in a conversation.
  async interrupt(conversation) {
    this.stop(conversation);
    await this.running.get(conversation.id)?.done;
  }

  async generate(conversation, parentId) {
    const turn = addNode(conversation, parentId, { role: "assistant", status: "streaming" });
    const controller = new AbortController();
    let end = null;
    const done = new Promise((resolve) => {
      end = resolve;
    });
    this.conversations.set(conversation.id, conversation);
    this.running.set(conversation.id, { controller, turn, done });
    this.save(conversation);
    this.onchange();
    let savedAt = performance.now();
    const onchange = () => {
      this.onprogress(conversation, turn);
      if (performance.now() - savedAt < SAVE_MS) return;
      savedAt = performance.now();
      this.save(conversation);
    };
    try {
      const model = this.model ?? { id: "model" };
      const settings = forRequest(this.settings);
      await runTurn({ conversation, turn, model, settings, signal: controller.signal, onchange });
    } catch (error) {
      fail(turn, error, controller.signal.aborted);
    }
    this.running.delete(conversation.id);
    conversation.updated = Date.now();
    this.save(conversation, true);
    this.onend(conversation, turn);
    end();
  }

  rename(conversation, title) {
    conversation.title = title;
    this.save(conversation, true);
    this.onchange();
  }

  remove(conversation) {
    this.stop(conversation);
    this.conversations.delete(conversation.id);
    this.store.remove(conversation.id);
    this.channel?.postMessage({ removed: conversation.id });
    if (this.current.id === conversation.id) this.startNew();
    else this.onchange();
  }

  setSystem(system) {
    this.current.system = system;
    if (this.conversations.has(this.current.id)) this.save(this.current);
  }

  add(conversations) {
    for (const conversation of conversations) {
      this.conversations.set(conversation.id, conversation);
      this.save(conversation, true);
    }
    this.onchange();
  }

  // A conversation that was deleted while its answer streamed stays deleted.
  async save(conversation, tellOthers = false) {
    if (Object.keys(conversation.nodes).length < 2 || !this.conversations.has(conversation.id)) return;
    await this.store.save(conversation);
    if (tellOthers) this.channel?.postMessage({ saved: conversation.id });
  }

  async onOtherWindow({ saved, removed }) {
    if (removed) {
      this.conversations.delete(removed);
      if (this.current.id === removed && !this.isRunning) this.startNew();
    } else if (saved && !this.running.has(saved)) {
      const conversation = await this.store.conversation(saved);
      if (conversation) this.adopt(conversation);
    }
    this.onchange();
  }
}

function fail(turn, error, wasStopped) {
  if (wasStopped) turn.status = "stopped";
  else {
    turn.status = "error";
    const known = error instanceof ApiFailure;
    const message = known ? error.message : "The connection to the server was lost.";
    turn.error = { message, status: known ? error.status : 0, retryAfter: known ? error.retryAfter : null };
    if (!known) console.error(error);
  }
}
