// A table that may still be growing: finished rows are drawn once.

import { el } from "./dom.js";
import { appendInline } from "./markdown_inline.js";

export class TableView {
  constructor(block) {
    this.align = block.align;
    this.key = keyOf(block);
    this.numDrawn = 0;
    this.marks = [];
    this.lastMarks = [];
    this.last = null; // the row that may still grow
    this.body = el("tbody");
    this.node = el("div", { class: "table-frame", tabindex: "0", role: "group", "aria-label": "Table" },
      el("table", {}, el("thead", {}, this.row("th", block.header, this.marks)), this.body));
  }

  continues(block) {
    return block.kind === "table" && keyOf(block) === this.key;
  }

  take({ rows }, isFinal) {
    const numFinal = isFinal ? rows.length : Math.max(rows.length - 1, 0);
    this.last?.remove();
    for (; this.numDrawn < numFinal; this.numDrawn += 1) {
      this.body.append(this.row("td", rows[this.numDrawn], this.marks));
    }
    this.lastMarks = [];
    this.last = numFinal < rows.length ? this.row("td", rows.at(-1), this.lastMarks) : null;
    if (this.last) this.body.append(this.last);
  }

  allMarks() {
    return [...this.marks, ...this.lastMarks];
  }

  row(tag, cells, marks) {
    return el("tr", {}, ...this.align.map((align, column) => {
      const cell = el(tag, { class: align ? `align-${align}` : null, scope: tag === "th" ? "col" : null });
      if (cells[column]) appendInline(cell, [cells[column]], marks);
      return cell;
    }));
  }
}

const keyOf = ({ align, header }) => JSON.stringify([align, header]);
