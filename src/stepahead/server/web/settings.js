// What the user set, and the dialog that asks for it. A field left empty is not sent: the server decides.

import { el, replace } from "./dom.js";

export const FIELDS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, hint: "0 always takes the likeliest token" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.01, hint: "keep the likeliest tokens up to this share" },
  { name: "top_k", label: "Top k", min: 0, max: 1000, step: 1, hint: "keep this many tokens; 0 keeps all" },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, hint: "drop tokens below this share of the best" },
  { name: "max_tokens", label: "Most tokens", min: 1, max: 1000000, step: 1, hint: "of one answer" },
  { name: "seed", label: "Seed", min: 0, max: 2 ** 53 - 1, step: 1, hint: "the same seed gives the same answer" },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1, hint: "" },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1, hint: "" },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0.5, max: 2, step: 0.05, hint: "1 is none" },
];
const EFFORTS = ["", "low", "medium", "high"];
const THEMES = ["auto", "light", "dark"];

export const defaults = () => ({
  sampling: {}, stop: [], reasoningEffort: "", system: "", toolsText: "", isTinted: false,
});

// Of what was stored: whatever is not as it should be is left out.
export function readSettings(stored) {
  const settings = defaults();
  if (typeof stored !== "object" || stored === null) return settings;
  for (const field of FIELDS) {
    const value = stored.sampling?.[field.name];
    if (Number.isFinite(value) && value >= field.min && value <= field.max) settings.sampling[field.name] = value;
  }
  if (EFFORTS.includes(stored.reasoningEffort)) settings.reasoningEffort = stored.reasoningEffort;
  for (const name of ["system", "toolsText"]) if (typeof stored[name] === "string") settings[name] = stored[name];
  const isText = (text) => typeof text === "string" && text !== "";
  if (Array.isArray(stored.stop)) settings.stop = stored.stop.filter(isText).slice(0, 4);
  settings.isTinted = stored.isTinted === true;
  return settings;
}

// As turn.js sends them.
export function forRequest(settings) {
  const sampling = { ...settings.sampling };
  if (settings.stop.length > 0) sampling.stop = settings.stop;
  return { sampling, reasoningEffort: settings.reasoningEffort, tools: parseTools(settings.toolsText) };
}

export function parseTools(text) {
  if (!text.trim()) return [];
  const tools = JSON.parse(text);
  const isTool = (tool) => tool?.type === "function" && typeof tool.function?.name === "string";
  if (!Array.isArray(tools) || !tools.every(isTool)) {
    throw new Error('Tools are a list of {"type": "function", "function": {"name", "description", "parameters"}}.');
  }
  return tools;
}

export class SettingsDialog {
  // actions: {save(settings, system), theme(), setTheme(name), importFile(file), exportAll(), forgetKey(), removeAll()}
  constructor(dialog, actions) {
    Object.assign(this, { dialog, actions });
    this.form = dialog.querySelector("form");
    this.body = dialog.querySelector(".dialog-body");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.save();
    });
  }

  // presets: what is sent where the user set nothing.
  open(settings, conversation, presets) {
    Object.assign(this, { settings, presets });
    this.inputs = {};
    replace(this.body, this.systemPart(settings, conversation), this.samplingPart(settings),
      conversation.mode !== "chat" ? null : this.reasoningPart(settings), this.appearancePart(), this.dataPart());
    this.dialog.showModal();
  }

  systemPart(settings, conversation) {
    if (conversation.mode !== "chat") return null;
    this.inputs.system = el("textarea", { id: "system-prompt", rows: "4", value: conversation.system,
      placeholder: "How the model should answer" });
    this.inputs.isDefault = el("input", { type: "checkbox", id: "system-default" });
    this.inputs.isDefault.checked = settings.system !== "" && settings.system === conversation.system;
    return part("System prompt", el("label", { class: "visually-hidden", for: "system-prompt" }, "System prompt"),
      this.inputs.system, el("label", { class: "check" }, this.inputs.isDefault, "Also for new conversations"));
  }

  samplingPart(settings) {
    const fields = FIELDS.map((field) => {
      const { min, max, step } = field;
      const input = el("input", {
        type: "number", id: `set-${field.name}`, min, max, step, placeholder: this.presets[field.name] ?? "default",
        value: settings.sampling[field.name] ?? "", "aria-describedby": `hint-${field.name}`,
      });
      this.inputs[field.name] = input;
      return el("div", { class: "field" }, el("label", { for: input.id }, field.label), input,
        el("small", { id: `hint-${field.name}` }, field.hint));
    });
    const stop = settings.stop.join("\n");
    this.inputs.stop = el("textarea", { id: "set-stop", rows: "2", value: stop, spellcheck: "false" });
    fields.push(el("div", { class: "field wide" }, el("label", { for: "set-stop" }, "Stop at"), this.inputs.stop,
      el("small", {}, "one text a line, four at most")));
    return part("Sampling", el("div", { class: "fields" }, ...fields));
  }

  reasoningPart(settings) {
    this.inputs.effort = select("set-effort", EFFORTS, ["default", "low", "medium", "high"], settings.reasoningEffort);
    this.inputs.tools = el("textarea", {
      id: "set-tools", rows: "4", class: "code", spellcheck: "false", value: settings.toolsText,
      "aria-describedby": "tools-problem",
      placeholder: '[{"type": "function", "function": {"name": "get_weather", …}}]',
    });
    this.toolsProblem = el("small", { id: "tools-problem", class: "field-problem", role: "alert" });
    return part("Reasoning and tools",
      el("div", { class: "field" }, el("label", { for: "set-effort" }, "Reasoning effort"), this.inputs.effort),
      el("div", { class: "field wide" }, el("label", { for: "set-tools" }, "Tools, as JSON"), this.inputs.tools,
        el("small", {}, "The page shows calls and lets you write their results; it runs nothing."), this.toolsProblem));
  }

  appearancePart() {
    const theme = select("set-theme", THEMES, ["as the system", "light", "dark"], this.actions.theme());
    theme.addEventListener("change", () => this.actions.setTheme(theme.value));
    return part("Appearance", el("div", { class: "field" }, el("label", { for: "set-theme" }, "Theme"), theme));
  }

  dataPart() {
    const file = el("input", {
      type: "file", accept: ".json,application/json", id: "import-file", hidden: true,
    });
    file.addEventListener("change", () => file.files[0] && this.actions.importFile(file.files[0]));
    const button = (text, onclick, extra = "") =>
      el("button", { type: "button", class: `button quiet ${extra}`, onclick }, text);
    return part("Data", el("p", { class: "hint" }, "Conversations are kept in this browser alone."),
      el("div", { class: "buttons" }, file, button("Import…", () => file.click()),
        button("Export all", () => this.actions.exportAll()),
        button("Forget the API key", () => this.actions.forgetKey()),
        button("Delete all conversations", () => this.actions.removeAll(), "danger")));
  }

  save() {
    const settings = { ...this.settings, sampling: {} };
    for (const { name } of FIELDS) {
      const value = this.inputs[name].valueAsNumber;
      if (Number.isFinite(value)) settings.sampling[name] = value;
    }
    settings.stop = this.inputs.stop.value.split("\n").filter(Boolean).slice(0, 4);
    if (this.inputs.effort) settings.reasoningEffort = this.inputs.effort.value;
    if (this.inputs.tools) {
      try {
        parseTools(this.inputs.tools.value);
      } catch (error) {
        this.toolsProblem.textContent = error.message;
        this.inputs.tools.focus();
        return;
      }
      settings.toolsText = this.inputs.tools.value;
    }
    const system = this.inputs.system?.value ?? null;
    if (system !== null && this.inputs.isDefault.checked) settings.system = system;
    else if (settings.system === system) settings.system = "";
    this.actions.save(settings, system);
    this.dialog.close();
  }
}

function part(title, ...children) {
  return el("section", { class: "dialog-part" }, el("h3", {}, title), ...children);
}

function select(id, values, names, chosen) {
  const node = el("select", { id }, ...values.map((value, index) => el("option", { value }, names[index])));
  node.value = chosen;
  return node;
}
