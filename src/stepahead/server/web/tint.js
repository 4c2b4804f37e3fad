// Marks stretches of text without touching it: ranges lie over the nodes (CSS Custom Highlight API), so that turning a
// mark on or off changes no element, no selection and no scroll. "accepted" is what was drafted and accepted, "own"
// what the user wrote of a text that the model continues.

export const canTint = typeof Highlight === "function" && Boolean(CSS.highlights);
const highlights = { accepted: canTint ? new Highlight() : null, own: canTint ? new Highlight() : null };
const isOn = { accepted: false, own: canTint };
if (canTint) CSS.highlights.set("own", highlights.own);

export function setTint(wanted) {
  isOn.accepted = wanted && canTint;
  if (!canTint) return;
  if (isOn.accepted) CSS.highlights.set("accepted", highlights.accepted);
  else CSS.highlights.delete("accepted");
}

export const isTinted = () => isOn.accepted;

// Of one answer. update(stretches, fixed, open): stretches is [begin, end, begin, end ...] in characters of the text,
// fixed and open are its text nodes in order, {node, at, length}; of the fixed ones those it has seen stay as they are.
export class MarkedText {
  constructor(name) {
    this.name = name;
    this.highlight = highlights[name];
    this.clear();
  }

  clear() {
    for (const range of this.fixed ?? []) this.highlight?.delete(range);
    for (const range of this.open ?? []) this.highlight?.delete(range);
    Object.assign(this, { fixed: [], open: [], numFixed: 0, first: 0 });
  }

  update(stretches, fixedMarks, openMarks) {
    if (!isOn[this.name] || fixedMarks.length < this.numFixed) this.clear();
    if (!isOn[this.name]) return;
    for (const range of this.open) this.highlight.delete(range);
    const fresh = rangesOf(stretches, fixedMarks.slice(this.numFixed), this.first);
    this.fixed = this.fixed.concat(fresh);
    this.open = rangesOf(stretches, openMarks, this.first);
    for (const range of [...fresh, ...this.open]) this.highlight.add(range);
    this.numFixed = fixedMarks.length;
    const end = fixedMarks.length > 0 ? fixedMarks.at(-1).at : 0;
    while (this.first + 2 < stretches.length && stretches[this.first + 1] <= end) this.first += 2;
  }
}

function rangesOf(stretches, marks, first) {
  const ranges = [];
  let index = first;
  for (const { node, at, length } of marks) {
    while (index > first && stretches[index - 1] > at) index -= 2;
    while (index < stretches.length && stretches[index + 1] <= at) index += 2;
    for (let i = index; i < stretches.length && stretches[i] < at + length; i += 2) {
      const startOffset = Math.max(stretches[i] - at, 0);
      const endOffset = Math.min(stretches[i + 1] - at, length);
      if (endOffset <= startOffset) continue;
      ranges.push(new StaticRange({ startContainer: node, startOffset, endContainer: node, endOffset }));
    }
  }
  return ranges;
}
