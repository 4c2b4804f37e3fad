// The server's endpoints, as the page uses them. The key, if there is one, lives as long as this tab.

const KEY = "stepahead-key";
// So small a model strays at a temperature of 1, and repeats itself at 0.
const DEMO_SAMPLING = { temperature: 0.8, min_p: 0.05, repetition_penalty: 1.05, max_tokens: 256 };

export class ApiFailure extends Error {
  constructor(message, { status = 0, code = null, param = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter });
  }
}

export function storedKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return memoryKey;
  }
}

let memoryKey = "";
export function storeKey(key) {
  memoryKey = key;
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    // A window without storage asks again after a reload.
  }
}

function headers(extra = {}) {
  const key = storedKey();
  return key ? { ...extra, Authorization: `Bearer ${key}` } : extra;
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers), credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiFailure("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await failureOf(response);
  return response;
}

async function failureOf(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // Not ours: a proxy's page, perhaps.
  }
  const isTold = typeof error.message === "string";
  const message = isTold ? error.message : `The server answered with status ${response.status}.`;
  const after = Number.parseFloat(response.headers.get("retry-after"));
  return new ApiFailure(message, {
    status: response.status, code: error.code ?? null, param: error.param ?? null,
    retryAfter: Number.isFinite(after) ? after : null,
  });
}

export const getJson = async (path) => (await ask(path)).json();

// What the page needs to know of the model; a server that does not say something leaves it null.
export async function loadModel() {
  const [models, props] = await Promise.all([
    getJson("/v1/models"),
    getJson("/props").catch((error) => {
      if (error.status === 401) throw error;
      return {};
    }),
  ]);
  const entry = models?.data?.[0] ?? {};
  const length = props.context_length ?? entry.context_length ?? entry.max_model_len ??
    props.default_generation_settings?.n_ctx ?? null;
  const hasTemplate = props.has_chat_template !== false;
  const mode = hasTemplate && props.is_demo !== true ? "chat" : "completion";
  const isDemo = props.is_demo === true;
  return {
    id: entry.id ?? "model", contextLength: length, hasTemplate, isDemo, mode, props,
    sampling: isDemo ? DEMO_SAMPLING : {},
  };
}

// Yields the data of each event, parsed; ends with the stream.
export async function* postEvents(path, body, signal) {
  const response = await ask(path, {
    method: "POST", signal, body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      pending += value;
      const lines = pending.split(/\r\n|\n|\r(?!$)/);
      pending = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
