// A conversation is a tree: an edited question and a repeated answer are branches, and each turn knows which of its
// branches is shown. Plain data, stored and exported as it is.

export const newId = () => crypto.getRandomValues(new Uint32Array(3)).reduce((id, n) => id + n.toString(36), "");

export function newConversation(mode, system = "") {
  const now = Date.now();
  const root = { id: "root", parent: null, role: "root", children: [], chosen: null };
  return { id: newId(), title: "", isNamed: false, created: now, updated: now, mode, system, nodes: { root } };
}

export function addNode(conversation, parentId, fields) {
  const node = {
    id: newId(), parent: parentId, role: "user", content: "", reasoning: "", reasoningMs: 0, toolCalls: [],
    accepted: [], status: "done", error: null, stats: null, created: Date.now(), children: [], chosen: null, ...fields,
  };
  conversation.nodes[node.id] = node;
  const parent = conversation.nodes[parentId];
  parent.children.push(node.id);
  parent.chosen = node.id;
  conversation.updated = Date.now();
  return node;
}

// The turns that are shown, first to last.
export function shown(conversation) {
  const turns = [];
  let node = conversation.nodes.root;
  while (node.chosen !== null && conversation.nodes[node.chosen]) {
    node = conversation.nodes[node.chosen];
    turns.push(node);
  }
  return turns;
}

export function siblings(conversation, node) {
  return conversation.nodes[node.parent].children;
}

export function chooseSibling(conversation, node, offset) {
  const ids = siblings(conversation, node);
  const id = ids[ids.indexOf(node.id) + offset];
  if (id) conversation.nodes[node.parent].chosen = id;
}

export function lastTurn(conversation) {
  return shown(conversation).at(-1) ?? conversation.nodes.root;
}

// From the first turn to this one.
export function pathTo(conversation, nodeId) {
  const { nodes } = conversation;
  const turns = [];
  for (let node = nodes[nodeId]; node.id !== "root"; node = nodes[node.parent]) turns.unshift(node);
  return turns;
}

// As the endpoint wants them. Reasoning goes back as it came: the model was trained to see it while it calls tools.
export function toMessages(conversation, nodeId) {
  const messages = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  for (const turn of pathTo(conversation, nodeId)) {
    if (turn.role === "assistant") {
      if (!turn.content && !turn.reasoning && turn.toolCalls.length === 0) continue;
      const message = { role: "assistant", content: turn.content };
      if (turn.reasoning) message.reasoning_content = turn.reasoning;
      if (turn.toolCalls.length > 0) {
        message.tool_calls = turn.toolCalls.map((call) => ({
          id: call.id, type: "function", function: { name: call.name, arguments: call.arguments },
        }));
      }
      messages.push(message);
    } else if (turn.role === "tool") {
      messages.push({ role: "tool", tool_call_id: turn.toolCallId, content: turn.content });
    } else messages.push({ role: "user", content: turn.content });
  }
  return messages;
}

export const toPrompt = (conversation, nodeId) => pathTo(conversation, nodeId).map((turn) => turn.content).join("");

export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = shown(conversation).find((turn) => turn.content.trim());
  const line = first?.content.trim().split("\n")[0] ?? "";
  return line ? (line.length > 60 ? `${line.slice(0, 58).trimEnd()}…` : line) : "New conversation";
}

export function matches(conversation, query) {
  const wanted = query.toLowerCase();
  return titleOf(conversation).toLowerCase().includes(wanted) ||
    Object.values(conversation.nodes).some((node) => (node.content ?? "").toLowerCase().includes(wanted));
}
