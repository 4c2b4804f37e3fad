// Draws when something changed, once a frame at most, and leaves the page at least two thirds of the time: what counts
// is the whole frame, because the browser's own part of it, layout and paint, is the larger one.

const SHARE = 2;

export class Painter {
  constructor(draw) {
    this.draw = draw;
    this.isAsked = false;
    this.began = 0;
    this.notBefore = 0;
    this.channel = new MessageChannel(); // its message comes after the frame is painted
    this.channel.port1.onmessage = () => this.rest();
  }

  ask() {
    if (this.isAsked) return;
    this.isAsked = true;
    const wait = this.notBefore - performance.now();
    if (wait > 0) setTimeout(() => requestAnimationFrame(() => this.onFrame()), wait);
    else requestAnimationFrame(() => this.onFrame());
  }

  onFrame() {
    this.isAsked = false;
    this.began = performance.now();
    this.draw();
    this.rest();
    this.channel.port2.postMessage(null);
  }

  rest() {
    const now = performance.now();
    this.notBefore = now + SHARE * (now - this.began);
  }
}
