// A block of code that may still be growing: finished lines are read and drawn once, and stand in parts of some lines
// each, so that the browser can leave alone what is out of sight.

import { copyButton, el } from "./dom.js";
import { highlightLine, languageOf } from "./highlight.js";
import { joined } from "./markdown_blocks.js";
import { appendText } from "./plain_text.js";

const PART_LINES = 40;

export class CodeView {
  constructor(language) {
    this.name = language;
    this.language = languageOf(language);
    this.lines = [];
    this.numDrawn = 0;
    this.state = null;
    this.marks = [];
    this.lastMarks = [];
    this.code = el("code", {});
    this.last = el("span", {});
    this.part = null; // to which lines are added
    this.code.append(this.last);
    this.node = el("figure", { class: "code-block" },
      el("figcaption", {}, el("span", { class: "code-language" }, language || "text"),
        copyButton(() => this.text(), "Copy code")),
      el("pre", { tabindex: "0", "aria-label": `Code${language ? `, ${language}` : ""}` }, this.code));
  }

  text() {
    return joined(this.lines);
  }

  continues(block) {
    return block.kind === "code" && block.language === this.name;
  }

  take(block, isFinal) {
    this.update(block.lines, block.isClosed || isFinal);
  }

  // lines: all of the block so far, the last of them unfinished unless the block is closed.
  update(lines, isClosed) {
    this.lines = lines;
    const numFinal = isClosed ? lines.length : Math.max(lines.length - 1, 0);
    for (; this.numDrawn < numFinal; this.numDrawn += 1) {
      const isFirst = this.numDrawn % PART_LINES === 0;
      if (isFirst) this.beginPart();
      const fresh = document.createDocumentFragment();
      this.state = this.draw(fresh, lines[this.numDrawn], this.state, this.marks, !isFirst);
      this.last.before(fresh);
    }
    this.lastMarks = [];
    const tail = document.createDocumentFragment();
    if (!isClosed && lines.length > 0) this.draw(tail, lines.at(-1), this.state, this.lastMarks, lines.length > 1);
    this.last.replaceChildren(tail);
  }

  // A line's end at the end of a block shows no empty line.
  beginPart() {
    if (this.numDrawn > 0) this.last.before("\n");
    this.code.append(el("span", { class: "code-part" }, this.last));
  }

  allMarks() {
    return [...this.marks, ...this.lastMarks];
  }

  draw(parent, line, state, marks, isNext) {
    const read = highlightLine(this.language, line.text, state);
    let at = line.at;
    if (isNext) parent.append("\n");
    for (const [kind, text] of read.tokens) {
      const frame = kind ? el("span", { class: `t-${kind}` }) : parent;
      appendText(frame, text, at, marks, true);
      if (kind) parent.append(frame);
      at += text.length;
    }
    return read.state;
  }
}
