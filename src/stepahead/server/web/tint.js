// Marks drafted and accepted text without touching it: the ranges lie over the nodes (CSS Custom Highlight API), so
// turning the tint on or off changes no element, no selection and no scroll.

const NAME = "accepted";
export const canTint = typeof Highlight === "function" && Boolean(CSS.highlights);
const highlight = canTint ? new Highlight() : null;
let isOn = false;

export function setTint(wanted) {
  isOn = wanted && canTint;
  if (!canTint) return;
  if (isOn) CSS.highlights.set(NAME, highlight);
  else CSS.highlights.delete(NAME);
}

export const isTinted = () => isOn;

// Of one answer. update(accepted, marks): accepted is [begin, end, begin, end ...] of the answer's characters, marks
// are its text nodes in order; the first numFixed of them are as they were the last time.
export class TintedText {
  constructor() {
    this.clear();
  }

  clear() {
    for (const range of this.fixed ?? []) highlight?.delete(range);
    for (const range of this.open ?? []) highlight?.delete(range);
    Object.assign(this, { fixed: [], open: [], numFixed: 0, firstRange: 0 });
  }

  update(accepted, fixedMarks, openMarks) {
    if (!isOn || fixedMarks.length < this.numFixed) this.clear();
    if (!isOn) return;
    for (const range of this.open) highlight.delete(range);
    const fresh = rangesOf(accepted, fixedMarks.slice(this.numFixed), this.firstRange);
    this.fixed.push(...fresh);
    this.open = rangesOf(accepted, openMarks, this.firstRange);
    for (const range of [...fresh, ...this.open]) highlight.add(range);
    this.numFixed = fixedMarks.length;
    const end = fixedMarks.length > 0 ? fixedMarks.at(-1).at : 0;
    while (this.firstRange + 2 < accepted.length && accepted[this.firstRange + 1] <= end) this.firstRange += 2;
  }
}

function rangesOf(accepted, marks, first) {
  const ranges = [];
  let index = first;
  for (const { node, at, length } of marks) {
    while (index > first && accepted[index - 1] > at) index -= 2;
    while (index < accepted.length && accepted[index + 1] <= at) index += 2;
    for (let i = index; i < accepted.length && accepted[i] < at + length; i += 2) {
      const begin = Math.max(accepted[i] - at, 0);
      const end = Math.min(accepted[i + 1] - at, length);
      if (end > begin) ranges.push(new StaticRange({ startContainer: node, startOffset: begin, endContainer: node, endOffset: end }));
    }
  }
  return ranges;
}
