// Text nodes, and the characters that turn the direction of writing around. With those a line of code, or the words of
// a link, can read otherwise than they run: each stands in an element of its own, where it turns nothing and is seen.

import { el } from "./dom.js";

const OVERRIDES = /([\u202d\u202e])/;
const CONTROLS = /([\u202a-\u202e\u2066-\u2069])/; // in prose of Hebrew or Arabic the others have their place

// marks: gets {node, at, length} for each text node.
export function appendText(parent, text, at, marks, isCode = false) {
  let begin = at;
  for (const part of text.split(isCode ? CONTROLS : OVERRIDES)) {
    if (part === "") continue;
    const node = document.createTextNode(part);
    marks.push({ node, at: begin, length: part.length });
    begin += part.length;
    parent.append(isTurning(part, isCode) ? shown(node) : node);
  }
}

const isTurning = (part, isCode) => part.length === 1 && (isCode ? CONTROLS : OVERRIDES).test(part);

function shown(node) {
  const name = `U+${node.data.charCodeAt(0).toString(16).toUpperCase()}`;
  return el("bdi", { class: "turning", "data-name": name, title: `${name} turns the direction of writing` }, node);
}
