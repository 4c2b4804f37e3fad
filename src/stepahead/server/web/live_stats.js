// What the steps of an answer did, counted while they come: speed, depth, and how many drafts each position kept.

const WINDOW_MS = 2000;

export class LiveStats {
  constructor() {
    this.began = performance.now();
    this.firstAt = null;
    this.numTokens = 0;
    this.numSteps = 0;
    this.numDrafted = 0;
    this.numAccepted = 0;
    this.depth = null; // of the last step
    this.draftedAt = []; // steps that drafted this position
    this.acceptedAt = [];
    this.recent = []; // {at, numTokens} of the last two seconds
  }

  step(counts, now = performance.now()) {
    const { num_tokens: numTokens = 0, num_accepted: numAccepted = 0, num_drafted: numDrafted = 0 } = counts;
    this.firstAt ??= now;
    this.numTokens += numTokens;
    this.numSteps += 1;
    this.numDrafted += numDrafted;
    this.numAccepted += numAccepted;
    this.depth = numDrafted;
    for (let position = 0; position < Math.min(numDrafted, 64); position += 1) {
      this.draftedAt[position] = (this.draftedAt[position] ?? 0) + 1;
      this.acceptedAt[position] = (this.acceptedAt[position] ?? 0) + (position < numAccepted ? 1 : 0);
    }
    this.recent.push({ at: now, numTokens });
    while (this.recent[0].at < now - WINDOW_MS) this.recent.shift();
  }

  // Of the last two seconds. The first step of the window is where its clock starts, so its tokens do not count.
  speed(now = performance.now()) {
    if (this.recent.length < 2) return null;
    const tokens = this.recent.slice(1).reduce((sum, step) => sum + step.numTokens, 0);
    return (1000 * tokens) / Math.max(now - this.recent[0].at, 1);
  }

  // What is kept with the answer. metrics: as the server measured them, and usage; either may be missing.
  summary(metrics, usage, now = performance.now()) {
    const seconds = this.firstAt === null ? 0 : (now - this.firstAt) / 1000;
    const speed = seconds > 0 && this.numTokens > 1 ? this.numTokens / seconds : null;
    return {
      numTokens: usage?.completion_tokens ?? this.numTokens,
      promptTokens: usage?.prompt_tokens ?? null,
      cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? null,
      tokensPerSecond: metrics?.tokens_per_second ?? speed,
      firstTokenMs: metrics?.time_to_first_token_ms ?? (this.firstAt === null ? null : this.firstAt - this.began),
      depth: this.numSteps > 0 ? this.numDrafted / this.numSteps : null,
      acceptance: this.draftedAt.map((drafted, position) => this.acceptedAt[position] / drafted),
      numSteps: this.numSteps, numDrafted: this.numDrafted, numAccepted: this.numAccepted,
    };
  }
}
