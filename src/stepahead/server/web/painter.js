// Draws when something changed, once a frame at most, and gives the page at least two thirds of the time.

const SHARE = 2;

export class Painter {
  constructor(draw) {
    this.draw = draw;
    this.isAsked = false;
    this.notBefore = 0;
  }

  ask() {
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => this.onFrame());
  }

  onFrame() {
    const began = performance.now();
    if (began < this.notBefore) {
      requestAnimationFrame(() => this.onFrame());
      return;
    }
    this.isAsked = false;
    this.draw();
    const now = performance.now();
    this.notBefore = now + SHARE * (now - began);
  }
}
