// Shows the frames of one stream at the video's rate: a queue of chunks, a clock, and requestAnimationFrame.

const LATE_MS = 200; // a wait longer than this is an underrun
const MOST_LEAD_MS = 250;

/** `rate`: frames a second at which it is to be shown.
 *  @typedef {{number: number, rate: number, frames: (ImageBitmap|ImageData)[], states: (ImageBitmap|ImageData)[]}} Chunk */

export class Player {
  /** @param {{show: (chunk: Chunk, frame: number) => void, taken: (chunk: Chunk) => void, late: (ms: number) => void}} to
   *  `taken` is called when the first frame of a chunk is shown, `late` when the next one arrived too late. */
  constructor(to) {
    this.to = to;
    this.paused = false;
    this.lead = 80; // ms to wait after an underrun, so that the next delay does not stop the stream again
    this.times = [];
    this.clear();
    this.hidden = () => this.excuse();
    document.addEventListener("visibilitychange", this.hidden);
    const tick = (now) => {
      this.tick(now);
      this.request = requestAnimationFrame(tick);
    };
    this.request = requestAnimationFrame(tick);
  }

  /** Forgets what is queued, after going back. @returns {Chunk[]} those of which nothing was shown */
  clear() {
    const dropped = this.queue?.slice(this.at > 0 ? 1 : 0) ?? [];
    this.queue = [];
    this.at = 0;
    this.excuse();
    return dropped;
  }

  /** The wait that may follow is no underrun: paused, hidden, gone back, the connection known to be lost. */
  excuse() {
    this.dry = null;
    this.due = null;
    this.excused = true;
  }

  push(chunk) {
    this.queue.push(chunk);
    this.excused = false;
  }

  pause(on) {
    if (on === this.paused) return;
    this.paused = on;
    this.excuse();
  }

  stop() {
    cancelAnimationFrame(this.request);
    document.removeEventListener("visibilitychange", this.hidden);
  }

  /** Frames a second that were shown over the last two seconds. */
  rate(now = performance.now()) {
    const last = this.times.filter((t) => t > now - 2000);
    return last.length > 1 ? ((last.length - 1) * 1000) / (last[last.length - 1] - last[0]) : 0;
  }

  tick(now) {
    if (this.paused) return;
    if (!this.queue.length) {
      if (!this.excused && this.due !== null && now >= this.due && this.dry === null) this.dry = this.due;
      return;
    }
    if (this.dry !== null) this.wetAgain(now);
    // a new stream shows its first frame at once and holds it briefly, as a buffer for later chunks
    let pad = this.due === null ? this.lead : 0;
    this.due ??= now;
    const step = (1000 / this.queue[0].rate) * (this.queue.length > 2 ? 0.9 : 1); // far behind: play slightly faster
    if (now - this.due > 10 * step) this.due = now; // a page that was suspended continues at normal speed
    while (this.queue.length && now >= this.due) {
      this.next(now);
      this.due += step + pad;
      pad = 0;
    }
  }

  wetAgain(now) {
    const wait = now - this.dry;
    this.dry = null;
    this.due = null;
    this.lead = Math.min(MOST_LEAD_MS, this.lead + wait / 4);
    if (wait > LATE_MS) this.to.late(wait);
  }

  next(now) {
    const chunk = this.queue[0];
    if (this.at === 0) this.to.taken(chunk);
    this.to.show(chunk, this.at);
    this.times.push(now);
    if (this.times.length > 240) this.times.splice(0, 120);
    this.at += 1;
    if (this.at >= chunk.frames.length) {
      this.at = 0;
      this.queue.shift();
    }
  }
}
