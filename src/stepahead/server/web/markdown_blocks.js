// Markdown's blocks, found in lines {text, at}; `at` is where the line begins in the whole text, which lets the page
// say of every character it shows which character of the answer it was.

const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const MARKER = /^(\s*)([-*+]|\d{1,9}[.)])(?:([ \t]+)|$)/;
const DELIMITERS = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const MATH = /^\s*(\$\$|\\\[)/;

// What goes on and on is cut, so that no block grows without end: the part of a line after a cut isRest.
const MAX_LINE = 4000;
const MAX_BLOCK = 16000;

// isRest: the text begins within a line.
export function toLines(text, at = 0, isRest = false) {
  const lines = [];
  const push = (from, to) => lines.push({ text: text.slice(from, to), at: at + from, isRest });
  let start = 0;
  for (;;) {
    const end = text.indexOf("\n", start);
    const stop = end < 0 ? text.length : end;
    while (stop - start > MAX_LINE) {
      const cutAt = start + MAX_LINE - (/[\udc00-\udfff]/.test(text[start + MAX_LINE]) ? 1 : 0);
      push(start, cutAt);
      [start, isRest] = [cutAt, true];
    }
    push(start, text[stop - 1] === "\r" ? Math.max(stop - 1, start) : stop);
    if (end < 0) return lines;
    [start, isRest] = [end + 1, false];
  }
}

// Whether the line that begins at `at` is as long as it will be.
export const isLineComplete = (text, at) => text.includes("\n", at) || text.length - at > MAX_LINE;

export function joined(lines) {
  return lines.map((line, index) => (index > 0 && !line.isRest ? `\n${line.text}` : line.text)).join("");
}

export function parseBlocks(lines) {
  const blocks = [];
  let i = 0;
  while (i < lines.length) {
    if (isBlank(lines[i])) {
      i += 1;
      continue;
    }
    const block = readBlock(lines, i);
    block.at = lines[i].at;
    blocks.push(block);
    i = block.next;
  }
  return blocks;
}

const isLong = (lines, i, next) => lines[next].at - lines[i].at >= MAX_BLOCK;
const isBlank = (line) => /^\s*$/.test(line.text);
const indentOf = (text) => /^[ \t]*/.exec(text)[0].replaceAll("\t", "    ").length;
const cut = (line, count) => ({ ...line, text: line.text.slice(count), at: line.at + count });

function readBlock(lines, i) {
  const text = lines[i].text;
  if (lines[i].isRest) return readParagraph(lines, i);
  if (FENCE.test(text)) return readFence(lines, i);
  if (RULE.test(text)) return { kind: "rule", next: i + 1 };
  const heading = HEADING.exec(text);
  if (heading) {
    const line = cut(lines[i], heading[0].length);
    line.text = line.text.replace(/[ \t]+#+[ \t]*$/, "");
    return { kind: "heading", level: heading[1].length, lines: [line], next: i + 1 };
  }
  if (QUOTE.test(text)) return readQuote(lines, i);
  if (MARKER.test(text)) return readList(lines, i);
  if (isTable(lines, i)) return readTable(lines, i);
  if (MATH.test(text)) return readMath(lines, i);
  return readParagraph(lines, i);
}

function readFence(lines, i) {
  const [, indent, mark, language] = FENCE.exec(lines[i].text);
  const body = [];
  let next = i + 1;
  let isClosed = false;
  while (next < lines.length) {
    const text = lines[next].text.trim();
    if (!lines[next].isRest && text.startsWith(mark) && new RegExp(`^${mark[0]}+$`).test(text)) {
      isClosed = true;
      next += 1;
      break;
    }
    body.push(cut(lines[next], Math.min(indentOf(lines[next].text), indent.length)));
    next += 1;
  }
  return { kind: "code", language: language.toLowerCase(), lines: body, isClosed, next };
}

function readQuote(lines, i) {
  const body = [];
  let next = i;
  for (; next < lines.length && !isLong(lines, i, next); next += 1) {
    const mark = QUOTE.exec(lines[next].text);
    if (lines[next].isRest) body.push(lines[next]);
    else if (mark) body.push(cut(lines[next], mark[0].length));
    else break;
  }
  return { kind: "quote", lines: body, next };
}

// An item holds what is indented by two or more: models seldom count the width of their own marker.
function readList(lines, i) {
  const base = indentOf(lines[i].text);
  const isOrdered = /\d/.test(MARKER.exec(lines[i].text)[2]);
  const items = [];
  let next = i;
  let width = 0;
  let isLoose = false;
  let wasBlank = false;
  for (; next < lines.length; next += 1) {
    const line = lines[next];
    if (line.isRest) {
      if (isLong(lines, i, next)) break;
      items.at(-1).push(line);
      continue;
    }
    if (isBlank(line)) {
      wasBlank = true;
      items.at(-1).push({ text: "", at: line.at });
      continue;
    }
    const indent = indentOf(line.text);
    const marker = MARKER.exec(line.text);
    if (marker && indent < base + 2 && !RULE.test(line.text)) {
      if (/\d/.test(marker[2]) !== isOrdered || isLong(lines, i, next)) break;
      isLoose ||= wasBlank && items.length > 0;
      const gap = (marker[3] ?? " ").length;
      width = marker[1].length + marker[2].length + (gap > 4 ? 1 : gap);
      items.push([cut(line, Math.min(width, line.text.length))]);
    } else if (indent >= base + 2) {
      items.at(-1).push(cut(line, Math.min(/^[ \t]*/.exec(line.text)[0].length, width)));
    } else if (!wasBlank && !startsBlock(line.text)) {
      items.at(-1).push(line);
    } else break;
    wasBlank = false;
  }
  const start = isOrdered ? Number.parseInt(MARKER.exec(lines[i].text)[2], 10) : null;
  return { kind: "list", isOrdered, start, items, isLoose, next };
}

const startsBlock = (text) => FENCE.test(text) || HEADING.test(text) || RULE.test(text) || QUOTE.test(text);

function isTable(lines, i) {
  if (i + 1 >= lines.length || !lines[i].text.includes("|")) return false;
  const under = lines[i + 1].text;
  return DELIMITERS.test(under) && under.includes("-") && cells(lines[i]).length === cells(lines[i + 1]).length;
}

function readTable(lines, i) {
  const align = cells(lines[i + 1]).map(({ text }) => {
    const [left, right] = [text.startsWith(":"), text.endsWith(":")];
    return left && right ? "center" : right ? "right" : null;
  });
  const rows = [];
  let next = i + 2;
  const isRow = ({ text, isRest }) => !isRest && text.includes("|") && !startsBlock(text);
  while (next < lines.length && isRow(lines[next])) {
    rows.push(cells(lines[next]).slice(0, align.length));
    next += 1;
  }
  return { kind: "table", header: cells(lines[i]), align, rows, next };
}

function cells(line) {
  const found = [];
  const { text } = line;
  const end = text.trimEnd().length;
  let i = indentOf(text);
  if (text[i] === "|") i += 1;
  let start = i;
  const push = (stop) => {
    const raw = text.slice(start, stop);
    const lead = raw.length - raw.trimStart().length;
    found.push({ text: raw.trim(), at: line.at + start + lead });
  };
  let isCode = false;
  for (; i < end; i += 1) {
    if (text[i] === "\\") i += 1;
    else if (text[i] === "`") isCode = !isCode && text.indexOf("`", i + 1) > 0;
    else if (text[i] === "|" && !isCode) {
      push(i);
      start = i + 1;
    }
  }
  if (start < end) push(end);
  return found;
}

function readMath(lines, i) {
  const closer = MATH.exec(lines[i].text)[1] === "$$" ? "$$" : "\\]";
  const body = [];
  let next = i;
  for (; next < lines.length; next += 1) {
    body.push(lines[next]);
    const from = next === i ? lines[i].text.search(/\S/) + 2 : 0;
    if (lines[next].text.indexOf(closer, from) >= 0) break;
    if (isBlank(lines[next]) || isLong(lines, i, next)) return readParagraph(lines, i);
  }
  return { kind: "math", lines: body, next: next + 1 };
}

function readParagraph(lines, i) {
  let next = i + 1;
  while (next < lines.length && !isLong(lines, i, next) && !isBlank(lines[next]) && !endsParagraph(lines, next)) {
    next += 1;
  }
  return { kind: "paragraph", lines: lines.slice(i, next), next };
}

function endsParagraph(lines, i) {
  const { text, isRest } = lines[i];
  if (isRest) return false;
  if (startsBlock(text)) return true;
  const marker = MARKER.exec(text);
  if (marker && marker[3] && indentOf(text) < 4 && (!/\d/.test(marker[2]) || /^1[.)]/.test(marker[2]))) return true;
  return isTable(lines, i);
}
