// Conversations as a file, out and in. A file may come from anywhere: everything in it is checked, and copied by name.

import { addNode, newConversation, titleOf } from "./conversation.js";

const FORMAT = "stepahead-conversations";
const MAX_TURNS = 20000;
const ROLES = new Set(["user", "assistant", "tool"]);

export function toFile(conversations) {
  const body = JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
  const date = new Date().toISOString().slice(0, 10);
  const slug = (text) => text.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
  const title = conversations.length === 1 ? slug(titleOf(conversations[0])) : "all";
  return { name: `stepahead-${title}-${date}.json`, blob: new Blob([body], { type: "application/json" }) };
}

export function download({ name, blob }) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// Raises an Error that says what is wrong. What comes back are new conversations: nothing stored is overwritten.
export function fromFile(text) {
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new Error("This file is not JSON.");
  }
  if (data?.format !== FORMAT || !Array.isArray(data.conversations)) {
    throw new Error("This file holds no conversations of this page.");
  }
  if (data.version !== 1) throw new Error("This file was written by a newer version of this page.");
  return data.conversations.map(readConversation);
}

const asText = (value) => (typeof value === "string" ? value : "");
const asTime = (value) => (Number.isFinite(value) && value > 0 ? value : Date.now());
const asCount = (value) => (Number.isFinite(value) && value >= 0 ? value : 0);

function readConversation(data) {
  if (typeof data !== "object" || data === null || typeof data.nodes !== "object" || data.nodes === null) {
    throw new Error("A conversation in this file has no turns.");
  }
  const conversation = newConversation(data.mode === "completion" ? "completion" : "chat", asText(data.system));
  conversation.title = asText(data.title).slice(0, 200);
  conversation.isNamed = conversation.title !== "";
  const nodes = new Map(Object.entries(data.nodes));
  const waiting = [["root", "root"]];
  let numTurns = 0;
  while (waiting.length > 0) {
    const [oldId, newId] = waiting.pop();
    const old = nodes.get(oldId);
    nodes.delete(oldId); // a turn stands in one place: what points in a circle ends here
    const children = Array.isArray(old?.children) ? old.children : [];
    for (const child of children) {
      const turn = nodes.get(child);
      if (!turn || !ROLES.has(turn.role) || (numTurns += 1) > MAX_TURNS) continue;
      const node = addNode(conversation, newId, readTurn(turn));
      waiting.push([child, node.id]);
      if (child === old.chosen) conversation.nodes[newId].chosenNext = node.id;
    }
  }
  for (const node of Object.values(conversation.nodes)) {
    node.chosen = node.chosenNext ?? node.chosen;
    delete node.chosenNext;
  }
  conversation.created = asTime(data.created);
  conversation.updated = asTime(data.updated);
  return conversation;
}

function readTurn(data) {
  const calls = Array.isArray(data.toolCalls) ? data.toolCalls : [];
  const accepted = Array.isArray(data.accepted) && data.accepted.every(Number.isInteger) ? data.accepted : [];
  return {
    role: data.role, content: asText(data.content), reasoning: asText(data.reasoning),
    reasoningMs: asCount(data.reasoningMs), toolCallId: asText(data.toolCallId), accepted: [...accepted],
    toolCalls: calls.map((call) => ({
      id: asText(call?.id), name: asText(call?.name), arguments: asText(call?.arguments), isComplete: true,
    })),
    status: data.status === "stopped" || data.status === "length" ? data.status : "done", created: asTime(data.created),
  };
}
