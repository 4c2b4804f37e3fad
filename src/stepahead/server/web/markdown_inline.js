// What stands within a Markdown block: emphasis, code, links. Makes nodes, never markup; whatever cannot be closed is
// text. Links lead to http, https and mailto alone, pictures become links: loading one could carry a text away.

import { el } from "./dom.js";
import { joined } from "./markdown_blocks.js";
import { appendText } from "./plain_text.js";

const MAX_DEPTH = 20;
const PROTOCOLS = new Set(["http:", "https:", "mailto:"]);
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const SPECIAL = /[\\`*_~[!<$h]/g;

export function safeUrl(text) {
  try {
    const url = new URL(text.trim());
    return PROTOCOLS.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

// marks: gets {node, at, length} for each text node.
export function appendInline(parent, lines, marks) {
  new InlineReader(lines, marks).read(parent, 0, null, 0);
}

class InlineReader {
  constructor(lines, marks) {
    this.marks = marks;
    this.text = joined(lines);
    this.spans = []; // of the text: {start, at}, joined where the answer has no gap
    let start = 0;
    for (const [index, line] of lines.entries()) {
      const last = this.spans.at(-1);
      if (!last || line.at - last.at !== start - last.start) this.spans.push({ start, at: line.at });
      start += line.text.length + (lines[index + 1]?.isRest ? 0 : 1);
    }
    this.isInLink = false;
    this.dead = new Set(); // closers that are not to be found any more, up to an end
  }

  read(parent, from, to, depth) {
    const end = to ?? this.text.length;
    let plain = from;
    let i = from;
    while (i < end) {
      SPECIAL.lastIndex = i;
      const hit = SPECIAL.exec(this.text);
      if (!hit || hit.index >= end) break;
      i = hit.index;
      const part = depth < MAX_DEPTH ? this.special(i, end) : null;
      if (!part) {
        i += 1;
        continue;
      }
      this.emit(parent, plain, i);
      if (part.node) {
        this.fill(part, depth);
        parent.append(part.node);
      } else this.emit(parent, part.from, part.to);
      i = plain = part.next;
    }
    this.emit(parent, plain, end);
  }

  fill({ node, from, to, isVerbatim }, depth) {
    if (isVerbatim || node.tagName === "CODE") return this.emit(node, from, to);
    const wasInLink = this.isInLink;
    this.isInLink ||= node.tagName === "A";
    if (to > from) this.read(node, from, to, depth + 1);
    this.isInLink = wasInLink;
    return undefined;
  }

  emit(parent, from, to) {
    let start = from;
    while (start < to) {
      let index = this.spans.length - 1;
      while (this.spans[index].start > start) index -= 1;
      const stop = Math.min(to, this.spans[index + 1]?.start ?? to);
      const at = this.spans[index].at + start - this.spans[index].start;
      appendText(parent, this.text.slice(start, stop), at, this.marks, parent.tagName === "CODE");
      start = stop;
    }
  }

  // {node, from, to, next}: a node with what it holds; without node, plain text. Null: not special after all.
  special(i, end) {
    const char = this.text[i];
    if (char === "\\") return this.escape(i, end);
    if (char === "`") return this.code(i, end);
    if (char === "*" || char === "_" || char === "~") return this.emphasis(i, end);
    if (char === "$") return this.dollars(i, end);
    if (this.isInLink) return null;
    if (char === "[") return this.link(i, end);
    if (char === "!") return this.text[i + 1] === "[" ? this.picture(i, end) : null;
    if (char === "<") return this.angle(i, end);
    return this.bareUrl(i, end);
  }

  escape(i, end) {
    const next = this.text[i + 1];
    if (next === "(" || next === "[") {
      const closer = next === "(" ? "\\)" : "\\]";
      const close = this.find(closer, i + 2, end);
      if (close >= 0) return { node: el("code", { class: "math" }), from: i + 2, to: close, next: close + 2 };
    }
    if (i + 1 < end && PUNCTUATION.test(next)) return { from: i + 1, to: i + 2, next: i + 2 };
    return null;
  }

  find(what, from, end) {
    const key = `${what} ${end}`;
    if (this.dead.has(key)) return -1;
    const found = this.text.indexOf(what, from);
    if (found >= 0 && found + what.length <= end) return found;
    this.dead.add(key);
    return -1;
  }

  run(i, end) {
    let next = i;
    while (next < end && this.text[next] === this.text[i]) next += 1;
    return next - i;
  }

  code(i, end) {
    const length = this.run(i, end);
    const key = `\`${length} ${end}`;
    if (this.dead.has(key)) return { from: i, to: i + length, next: i + length };
    for (let at = i + length; at < end; ) {
      const close = this.text.indexOf("`", at);
      if (close < 0 || close >= end) break;
      const closing = this.run(close, end);
      if (closing === length) {
        const inner = this.text.slice(i + length, close);
        const pad = /^ .*[^ ].* $/s.test(inner) ? 1 : 0;
        return { node: el("code"), from: i + length + pad, to: close - pad, next: close + length };
      }
      at = close + closing;
    }
    this.dead.add(key);
    return { from: i, to: i + length, next: i + length };
  }

  emphasis(i, end) {
    const char = this.text[i];
    const length = this.run(i, end);
    const asText = { from: i, to: i + length, next: i + length };
    const after = this.text[i + length] ?? " ";
    if (length > 3 || i + length >= end || /\s/.test(after)) return asText;
    if (char === "_" && /[\p{L}\p{N}_]/u.test(this.text[i - 1] ?? " ")) return asText;
    if (char === "~" && length !== 2) return asText;
    const close = this.closer(char, length, i + length, end);
    if (close < 0) return asText;
    const tags = char === "~" ? ["del"] : [null, ["em"], ["strong"], ["em", "strong"]][length];
    if (tags.length === 1) return { node: el(tags[0]), from: i + length, to: close, next: close + length };
    // Three: the outer two delimiters stay for the next round of reading.
    return { node: el("em"), from: i + 1, to: close + 2, next: close + 3 };
  }

  closer(char, length, from, end) {
    const key = `${char}${length} ${end}`;
    if (this.dead.has(key)) return -1;
    let i = from;
    while (i < end) {
      const at = this.text[i];
      if (at === "\\") i += 2;
      else if (at === "`") {
        const ticks = this.run(i, end);
        const close = this.find("`".repeat(ticks), i + ticks, end);
        i = close < 0 ? i + ticks : close + ticks;
      } else if (at === char) {
        const found = this.run(i, end);
        const isClosing = !/\s/.test(this.text[i - 1]) &&
          (char !== "_" || !/[\p{L}\p{N}_]/u.test(this.text[i + found] ?? " "));
        if (isClosing && (found === length || (found === 3 && length < 3))) return found === 3 ? i + 3 - length : i;
        i += found;
      } else i += 1;
    }
    this.dead.add(key);
    return -1;
  }

  link(i, end) {
    const close = this.bracket(i, end);
    if (close < 0 || this.text[close + 1] !== "(") return null;
    const target = this.target(close + 1, end);
    if (!target) return null;
    const href = safeUrl(target.url);
    if (href === null) return { from: i, to: target.next, next: target.next };
    return { node: anchor(href), from: i + 1, to: close, next: target.next };
  }

  picture(i, end) {
    const close = this.bracket(i + 1, end);
    if (close < 0 || this.text[close + 1] !== "(") return null;
    const target = this.target(close + 1, end);
    if (!target) return null;
    const href = safeUrl(target.url);
    if (href === null) return { from: i, to: target.next, next: target.next };
    const node = anchor(href);
    node.classList.add("picture");
    if (close === i + 2) node.append("picture");
    return { node, from: i + 2, to: close, next: target.next };
  }

  bracket(i, end) {
    if (this.find("](", i, end) < 0) return -1;
    let depth = 0;
    for (let at = i; at < Math.min(end, i + 1000); at += 1) {
      if (this.text[at] === "\\") at += 1;
      else if (this.text[at] === "[") depth += 1;
      else if (this.text[at] === "]" && --depth === 0) return at;
    }
    return -1;
  }

  target(i, end) {
    let depth = 0;
    for (let at = i; at < Math.min(end, i + 4000); at += 1) {
      if (this.text[at] === "(") depth += 1;
      else if (this.text[at] === ")" && --depth === 0) {
        const inner = this.text.slice(i + 1, at).trim();
        const url = /^<?([^\s>]*)>?(?:\s+["'(].*)?$/s.exec(inner)?.[1];
        return url === undefined ? null : { url, next: at + 1 };
      }
    }
    return null;
  }

  angle(i, end) {
    const found = /^<(?:br\s*\/?>|((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>)/i.exec(this.text.slice(i, i + 2050));
    if (!found || i + found[0].length > end) return null;
    const next = i + found[0].length;
    if (!found[1]) return { node: el("br"), from: next, to: next, next };
    const href = safeUrl(found[1]);
    return href === null ? null : { node: anchor(href), from: i + 1, to: next - 1, next, isVerbatim: true };
  }

  dollars(i, end) {
    if (this.text[i + 1] === "$") {
      const close = this.find("$$", i + 2, end);
      if (close <= i + 2) return { from: i, to: i + 2, next: i + 2 };
      return { node: el("code", { class: "math" }), from: i + 2, to: close, next: close + 2 };
    }
    const found = /^\$(?![\s\d])([^$\n]{0,300}?[^\s$\\])\$(?!\d)/.exec(this.text.slice(i, Math.min(end, i + 320)));
    if (!found || !/[\\^_={}]|^.$/.test(found[1])) return null;
    return { node: el("code", { class: "math" }), from: i + 1, to: i + found[0].length - 1, next: i + found[0].length };
  }

  bareUrl(i, end) {
    if (!/^https?:\/\//.test(this.text.slice(i, i + 8)) || /\w/.test(this.text[i - 1] ?? "")) return null;
    const word = /^[^\s<>"`]{1,2000}/.exec(this.text.slice(i, Math.min(end, i + 2000)))[0];
    let found = word.replace(/[.,;:!?'*_~\]]+$/, "");
    if (found.endsWith(")") && !found.includes("(")) found = found.slice(0, -1);
    const href = safeUrl(found);
    if (href === null) return null;
    return { node: anchor(href), from: i, to: i + found.length, next: i + found.length, isVerbatim: true };
  }
}

function anchor(href) {
  return el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow", title: href });
}
