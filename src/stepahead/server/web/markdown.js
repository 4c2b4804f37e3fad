// A text in Markdown, drawn while it grows: blocks that are complete stay, only what is open is drawn again.

import { CodeView } from "./code_view.js";
import { el } from "./dom.js";
import { isLineComplete, parseBlocks, toLines } from "./markdown_blocks.js";
import { appendInline } from "./markdown_inline.js";
import { appendText } from "./plain_text.js";
import { TableView } from "./table_view.js";

const MAX_DEPTH = 12;

export class MarkdownView {
  constructor() {
    this.node = el("div", { class: "markdown" });
    this.text = "";
    this.numFinal = 0; // characters of the blocks that are complete
    this.marks = []; // of these: {node, at, length}
    this.open = []; // of the others: {at, node, marks, view}; view: of one that grows by itself, which has its marks
  }

  // The text so far. One that does not continue the last is drawn from its beginning.
  update(text, isComplete = false) {
    if (!text.startsWith(this.text)) this.clear();
    this.text = text;
    const blocks = parseBlocks(toLines(text.slice(this.numFinal), this.numFinal, this.isWithinLine));
    for (const [index, block] of blocks.entries()) {
      this.draw(block, index, isComplete || index < blocks.length - 1);
    }
    for (const { node } of this.open.splice(blocks.length)) node.remove();
    this.settle();
  }

  clear() {
    this.node.replaceChildren();
    Object.assign(this, { numFinal: 0, marks: [], open: [] });
  }

  draw(block, index, isFinal) {
    const known = this.open[index];
    if (known?.at === block.at && known.view?.continues(block)) {
      known.view.take(block, isFinal);
      return;
    }
    const drawn = { at: block.at, marks: [], view: viewOf(block), node: null };
    drawn.view?.take(block, isFinal);
    drawn.node = drawn.view?.node ?? drawBlock(block, drawn.marks, 0, isFinal);
    if (known) known.node.replaceWith(drawn.node);
    else this.node.append(drawn.node);
    this.open[index] = drawn;
  }

  // A block is complete when the line that begins the next one is: "---" may yet become the second line of a table.
  settle() {
    while (this.open.length > 1 && isLineComplete(this.text, this.open[1].at)) {
      const { marks, view } = this.open.shift();
      this.marks = this.marks.concat(view ? view.allMarks() : marks);
      this.numFinal = this.open[0].at;
    }
  }

  get isWithinLine() {
    return this.numFinal > 0 && this.text[this.numFinal - 1] !== "\n";
  }

  // Those that stay, and those that the next drawing may replace: of what grows by itself all but the last line stays.
  allMarks() {
    const first = this.open[0]?.view;
    const fixed = first ? this.marks.concat(first.marks) : this.marks;
    const others = this.open.slice(first ? 1 : 0).flatMap(({ view, marks }) => (view ? view.allMarks() : marks));
    return [fixed, first ? first.lastMarks.concat(others) : others];
  }

  get openNodes() {
    return this.open.map(({ node }) => node);
  }
}

function viewOf(block) {
  if (block.kind === "code") return new CodeView(block.language);
  return block.kind === "table" ? new TableView(block) : null;
}

function drawBlock(block, marks, depth, isFinal) {
  switch (block.kind) {
    case "heading": return filled(heading(block.level), block.lines, marks);
    case "rule": return el("hr");
    case "code":
    case "table": return drawView(block, marks, isFinal);
    case "quote": return drawQuote(block, marks, depth, isFinal);
    case "list": return drawList(block, marks, depth, isFinal);
    case "math": return filledPlain(el("pre", { class: "math", tabindex: "0" }), block.lines, marks);
    default: return filled(el("p"), block.lines, marks);
  }
}

// Bullets, and the bars of quotes, stand where the lines begin.
const RIGHT_TO_LEFT = /^[^\p{L}]*[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/u;
const directionOf = (line) => (RIGHT_TO_LEFT.test(line.text) ? "rtl" : null);

// The page's own headings are the first two.
const heading = (level) => el(`h${Math.min(level + 2, 6)}`, { class: `h${level}` });

function filled(node, lines, marks) {
  appendInline(node, trimmed(lines), marks);
  return node;
}

const trimmed = (lines) => lines.map((line) => {
  const { text, at, isRest } = line;
  if (isRest) return line;
  const lead = /^[ \t]*/.exec(text)[0].length;
  return { ...line, text: text.slice(lead), at: at + lead };
});

function filledPlain(node, lines, marks) {
  for (const { text, at } of lines) {
    appendText(node, text, at, marks);
    node.append("\n");
  }
  return node;
}

function drawView(block, marks, isFinal) {
  const view = viewOf(block);
  view.take(block, isFinal);
  for (const mark of view.allMarks()) marks.push(mark);
  return view.node;
}

function appendBlocks(parent, lines, marks, depth, isFinal) {
  if (depth >= MAX_DEPTH) return filledPlain(parent, lines, marks);
  const blocks = parseBlocks(lines);
  for (const [index, block] of blocks.entries()) {
    parent.append(drawBlock(block, marks, depth + 1, isFinal || index < blocks.length - 1));
  }
  return parent;
}

function drawQuote(block, marks, depth, isFinal) {
  return appendBlocks(el("blockquote", { dir: directionOf(block.lines[0]) }), block.lines, marks, depth, isFinal);
}

function drawList(block, marks, depth, isFinal) {
  const start = block.isOrdered && block.start !== 1 ? block.start : null;
  const list = el(block.isOrdered ? "ol" : "ul", { start, dir: directionOf(block.items[0][0]) });
  for (const [index, lines] of block.items.entries()) {
    const item = el("li");
    const task = /^\[([ xX])\][ \t]+/.exec(lines[0].text);
    if (task) {
      item.className = "task";
      item.append(el("span", { class: "task-box", role: "img", "aria-label": task[1] === " " ? "to do" : "done" },
        task[1] === " " ? "☐" : "☑"));
      lines[0] = { text: lines[0].text.slice(task[0].length), at: lines[0].at + task[0].length };
    }
    appendItem(item, lines, marks, depth, isFinal || index < block.items.length - 1, block.isLoose);
    list.append(item);
  }
  return list;
}

// An item's first paragraph stands in it without <p>, unless the list is a loose one.
function appendItem(item, lines, marks, depth, isFinal, isLoose) {
  if (depth >= MAX_DEPTH) return filledPlain(item, lines, marks);
  const blocks = parseBlocks(lines);
  for (const [index, block] of blocks.entries()) {
    if (block.kind === "paragraph" && !isLoose && index === 0) filled(item, block.lines, marks);
    else item.append(drawBlock(block, marks, depth + 1, isFinal || index < blocks.length - 1));
  }
  return item;
}
