// Elements made of data. Text is always text here: nothing in the page parses markup.

const SVG = "http://www.w3.org/2000/svg";

// el("button", {class: "x", onclick: f, "aria-label": "..."}, "text", child, null)
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Drawn on a grid of 24, by the stroke.
const PATHS = {
  plus: ["M12 5v14", "M5 12h14"],
  menu: ["M4 6h16", "M4 12h16", "M4 18h16"],
  list: ["M4 5h16v14H4z", "M9.5 5v14"],
  attach: ["M19.5 11.5 12 19a4.6 4.6 0 0 1-6.5-6.5l8-8a3.1 3.1 0 0 1 4.4 4.4l-8 8a1.6 1.6 0 0 1-2.2-2.2l7.2-7.2"],
  send: ["M12 19V5", "M5.5 11.5 12 5l6.5 6.5"],
  stop: ["M7 7h10v10H7z"],
  copy: ["M9 9h11v11H9z", "M5 15H4V4h11v1"],
  check: ["M5 12.5 10 17.5 19.5 7"],
  retry: ["M20 11a8 8 0 1 0-2.3 6.3", "M20 4v7h-7"],
  edit: ["M4 20h4L19.5 8.5l-4-4L4 16z"],
  trash: ["M5 7h14", "M10 7V4h4v3", "M7 7l1 13h8l1-13"],
  play: ["M8 5.5v13l10-6.5z"],
  left: ["M14.5 6 8.5 12l6 6"],
  right: ["M9.5 6l6 6-6 6"],
  down: ["M6 9.5l6 6 6-6"],
  end: ["M12 5v14", "M5.5 12.5 12 19l6.5-6.5"],
  settings: ["M4 7h9", "M19 7h1", "M4 17h1", "M11 17h9", "M13 7a3 3 0 1 0 6 0 3 3 0 1 0-6 0",
    "M5 17a3 3 0 1 0 6 0 3 3 0 1 0-6 0"],
  search: ["M4.5 11a6.5 6.5 0 1 0 13 0 6.5 6.5 0 1 0-13 0", "M16 16l4.5 4.5"],
  keyboard: ["M3 6h18v12H3z", "M7 10h.01", "M12 10h.01", "M17 10h.01", "M8 14h8"],
  info: ["M3 12a9 9 0 1 0 18 0 9 9 0 1 0-18 0", "M12 11v6", "M12 7.5h.01"],
  sun: ["M8 12a4 4 0 1 0 8 0 4 4 0 1 0-8 0", "M12 2v2.5", "M12 19.5V22", "M2 12h2.5", "M19.5 12H22", "M5 5l1.7 1.7",
    "M17.3 17.3 19 19", "M19 5l-1.7 1.7", "M6.7 17.3 5 19"],
  moon: ["M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z"],
  auto: ["M3 12a9 9 0 1 0 18 0 9 9 0 1 0-18 0", "M12 3v18", "M12 7h6.5", "M12 11h9", "M12 15h8", "M12 19h4.5"],
  more: ["M5 12h.01", "M12 12h.01", "M19 12h.01"],
  tool: ["M15 4a5 5 0 0 0-4.6 7L4 17.4 6.6 20l6.4-6.4A5 5 0 0 0 20 9l-3 3-3-1-1-3z"],
  alert: ["M12 3 2 20h20z", "M12 10v4.5", "M12 17.3h.01"],
  x: ["M6 6l12 12", "M18 6 6 18"],
  download: ["M12 4v11", "M7 10.5l5 5 5-5", "M4 20h16"],
  upload: ["M12 16V5", "M7 9.5l5-5 5 5", "M4 20h16"],
  tint: ["M4 6h16", "M4 12h10", "M4 18h.01", "M8 18h.01", "M12 18h.01", "M16 18h.01"],
  bolt: ["M13 2.5 5 13.5h6l-1 8 8-11h-6z"],
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "icon");
  for (const data of PATHS[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", data);
    svg.append(path);
  }
  return svg;
}

// A button that shows an icon alone has its words in a label.
export function iconButton(name, label, onclick, extra = {}) {
  const { class: more = "", ...rest } = extra;
  const props = { type: "button", class: `icon-button ${more}`, "aria-label": label, title: label, onclick, ...rest };
  return el("button", props, icon(name));
}

export function replace(node, ...children) {
  node.replaceChildren(...children.filter((child) => child !== null && child !== undefined && child !== false));
}

// Whether an input method still has the key; Safari says so by the key's code alone.
export const isComposing = (event) => event.isComposing || event.keyCode === 229;

// The clipboard needs a secure context; a page opened over plain HTTP from another machine has none.
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { class: "visually-hidden", "aria-hidden": "true", tabindex: "-1" });
    area.value = text;
    document.body.append(area);
    const focused = document.activeElement;
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus?.();
    return done;
  }
}

export function copyButton(getText, label = "Copy") {
  const button = iconButton("copy", label, async () => {
    const done = await copyText(getText());
    replace(button, icon(done ? "check" : "alert"));
    button.setAttribute("aria-label", done ? "Copied" : "Could not copy");
    setTimeout(() => {
      replace(button, icon("copy"));
      button.setAttribute("aria-label", label);
    }, 1500);
  });
  return button;
}
