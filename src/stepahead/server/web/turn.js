// One answer, streamed into a turn of the conversation.

import { ApiFailure, postEvents } from "./api.js";
import { toMessages, toPrompt } from "./conversation.js";
import { LiveStats } from "./live_stats.js";

const PASSING = ["live", "metrics", "usage", "finish", "reasoningFrom", "numAccepted", "progress"];
const COMPLETION_TOKENS = 256; // a completion seldom ends by itself
const EXTENSIONS = ["stepahead", "return_progress"];
let isExtended = true; // until a server says that it does not know these fields

// settings: see settings.js. Fills turn; onchange is called after each event. Raises ApiFailure, or AbortError.
export async function runTurn({ conversation, turn, model, settings, signal, onchange }) {
  const live = new LiveStats();
  turn.live = live;
  try {
    for await (const chunk of events(conversation, turn, model, settings, signal)) {
      if (chunk.error) {
        throw new ApiFailure(chunk.error.message ?? "The server stopped with an error.", { code: chunk.error.code });
      }
      take(chunk, turn, live);
      onchange();
    }
    if (turn.finish === null) throw new ApiFailure("The answer broke off: the server closed the connection.");
    turn.status = turn.finish === "length" ? "length" : "done";
  } finally {
    endReasoning(turn);
    turn.stats = live.summary(turn.metrics, turn.usage);
    dropPassing(turn);
  }
}

// What a turn has only while it streams.
export function dropPassing(turn) {
  for (const name of PASSING) delete turn[name];
}

async function* events(conversation, turn, model, settings, signal) {
  Object.assign(turn, { numAccepted: 0, metrics: null, usage: null, finish: null, reasoningFrom: null });
  const path = conversation.mode === "chat" ? "/v1/chat/completions" : "/v1/completions";
  const body = requestBody(conversation, turn, model, settings);
  try {
    yield* postEvents(path, body, signal);
  } catch (error) {
    if (!(error instanceof ApiFailure && error.status === 400 && EXTENSIONS.includes(error.param))) throw error;
    isExtended = false;
    yield* postEvents(path, requestBody(conversation, turn, model, settings), signal);
  }
}

export function requestBody(conversation, turn, model, settings) {
  const sampling = { ...model.sampling, ...settings.sampling };
  const body = { model: model.id, stream: true, stream_options: { include_usage: true }, ...sampling };
  if (isExtended) Object.assign(body, { stepahead: { steps: true }, return_progress: true });
  if (conversation.mode !== "chat") {
    body.prompt = toPrompt(conversation, turn.parent);
    body.max_tokens ??= COMPLETION_TOKENS;
    return body;
  }
  body.messages = toMessages(conversation, turn.parent);
  if (settings.reasoningEffort) body.reasoning_effort = settings.reasoningEffort;
  if (settings.tools.length > 0) body.tools = settings.tools;
  return body;
}

function take(chunk, turn, live) {
  if (chunk.usage) turn.usage = chunk.usage;
  if (chunk.metrics) turn.metrics = chunk.metrics;
  if (chunk.stepahead?.num_tokens !== undefined) {
    live.step(chunk.stepahead); // pieces alone belong to the step that a chunk before has counted
    turn.numAccepted = chunk.stepahead.num_accepted;
  }
  if (chunk.prompt_progress) turn.progress = chunk.prompt_progress;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const delta = choice.delta ?? {};
  const reasoning = delta.reasoning_content ?? delta.reasoning;
  if (reasoning) {
    turn.reasoningFrom ??= performance.now();
    turn.reasoning += reasoning;
  }
  const content = choice.text ?? delta.content;
  if (content) {
    endReasoning(turn);
    if (chunk.stepahead?.pieces) markAccepted(turn, chunk.stepahead.pieces, content);
    turn.content += content;
  }
  for (const call of delta.tool_calls ?? []) takeCall(call, turn);
  if (choice.finish_reason) {
    turn.finish = choice.finish_reason;
    if (turn.finish === "tool_calls") for (const call of turn.toolCalls) call.isComplete = true;
  }
}

function endReasoning(turn) {
  if (turn.reasoningFrom !== null && turn.reasoningMs === 0) {
    turn.reasoningMs = Math.max(performance.now() - turn.reasoningFrom, 1);
  }
}

function takeCall(delta, turn) {
  endReasoning(turn);
  const calls = turn.toolCalls;
  const call = (calls[delta.index] ??= { id: "", name: "", arguments: "", isComplete: false });
  if (delta.index > 0 && calls[delta.index - 1]) calls[delta.index - 1].isComplete = true;
  call.id ||= delta.id ?? "";
  call.name ||= delta.function?.name ?? "";
  call.arguments += delta.function?.arguments ?? "";
}

// turn.accepted: begin and end of each stretch of the content that was drafted and accepted, one after another.
function markAccepted(turn, pieces, content) {
  if (pieces.join("") !== content) return;
  const at = turn.content.length;
  const length = pieces.slice(0, turn.numAccepted).join("").length;
  if (length === 0) return;
  const ranges = turn.accepted;
  if (ranges.length > 0 && ranges.at(-1) === at) ranges[ranges.length - 1] = at + length;
  else ranges.push(at, at + length);
}
