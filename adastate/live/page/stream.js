// One session on the page: its socket, its player and its pane.
import { Pane, bytes, seconds } from "./pane.js";
import { codedPicture, rawPicture } from "./pictures.js";
import { Player } from "./player.js";
import { Socket } from "./wire.js";

let ids = 0;

export class Stream {
  /** @param session the server's description of it. @param {number} asked when it was asked for (performance.now)
   *  @param to {{state, receipt, error, answer, fork, close, changed}} what the page wants to be told */
  constructor(session, { token, asked, to }) {
    Object.assign(this, { id: session.id, session, asked, to, sent: new Map(), state: "connecting", shown: 0, underruns: 0, longest: 0, turn: 0, order: Promise.resolve() });
    this.pane = new Pane({ back: (chunk) => this.back(chunk), fork: (chunk) => this.fork(chunk), close: () => to.close(this) });
    this.player = new Player({
      show: (chunk, frame) => this.pane.show(chunk, frame),
      taken: (chunk) => this.taken(chunk),
      late: (ms) => this.late(ms),
    });
    this.socket = new Socket(session.stream, token, {
      ready: (message) => this.changed(message.session),
      chunk: (head, data) => this.decode(head, data),
      message: (message) => this.message(message),
      state: (state, sentence) => this.stateIs(state, sentence),
    });
    this.timer = setInterval(() => this.pane.number("fps", this.player.rate().toFixed(1)), 500);
    this.pane.number("bytes", bytes(session.bytes));
  }

  // ---- incoming messages

  decode(head, data) {
    const turn = this.turn;
    const rate = head.fps * this.session.speed;
    const coded = [head.frames, head.state_frames].map((part) => part ?? { lengths: [] });
    let at = 0;
    const parts = coded.map((part) => part.lengths.map((length) => data.subarray(at, (at += length))));
    const pictures = Promise.all(coded.map((part, n) => decoded(part, parts[n])));
    this.order = this.order.then(async () => {
      const [frames, states] = await pictures;
      const chunk = { ...head, number: head.chunk, rate, frames, states };
      if (turn === this.turn) this.player.push(chunk);
      else this.socket.acknowledge(head.seq); // of an abandoned branch
    });
  }

  /** The first frame of a chunk is on the screen. */
  taken(chunk) {
    this.socket.acknowledge(chunk.seq);
    this.shown = chunk.number;
    this.session.history = chunk.history;
    const now = performance.now();
    if (this.asked !== null) {
      this.pane.number("first", seconds((now - this.asked) / 1000));
      this.asked = null;
    }
    this.pane.number("bytes", bytes(chunk.bytes));
    this.pane.number("made", `${Math.round(chunk.made_fps)}/s`);
    this.pane.strip.keep(chunk.history[0]);
    for (const receipt of chunk.receipts) {
      const sent = this.sent.get(receipt.id);
      this.sent.delete(receipt.id);
      const took = sent ? (now - sent.at) / 1000 : receipt.seconds;
      this.pane.number("latency", seconds(took));
      this.to.receipt(this, { ...receipt, seconds: took, what: sent?.what ?? receipt.kind });
    }
  }

  late(ms) {
    this.underruns += 1;
    this.longest = Math.max(this.longest, ms);
    this.pane.number("underruns", `${this.underruns}, longest ${seconds(this.longest / 1000)}`);
  }

  message(message) {
    if (message.type === "state") this.changed(message.session);
    else if (message.type === "rolled_back") this.rolledBack(message);
    else if (message.type === "error") this.to.error(message.message);
    else if (message.type !== "queued" && message.type !== "pong") this.to.answer(this, message);
  }

  changed(session) {
    this.session = session;
    this.player.pause(session.paused);
    this.to.changed(this);
  }

  rolledBack({ to, session }) {
    this.turn += 1;
    for (const chunk of this.player.clear()) this.socket.acknowledge(chunk.seq);
    this.pane.wait(to);
    this.changed(session);
    this.to.receipt(this, { kind: "rollback", chunk: to, what: "went back", seconds: null });
  }

  stateIs(state, sentence) {
    this.state = state;
    if (state !== "live") this.player.excuse();
    if (state === "asleep") this.player.pause(true);
    this.to.state(this, sentence);
  }

  // ---- outgoing messages

  /** @param {string} what said of it in its receipt */
  control(message, what) {
    const id = `c${(ids += 1)}`;
    this.sent.set(id, { at: performance.now(), what });
    if (this.sent.size > 64) this.sent.delete(this.sent.keys().next().value);
    this.socket.send({ ...message, id });
  }

  prompt(text, kind, anchor) {
    this.control({ type: "prompt", text, kind, anchor }, anchor === "reset" ? `prompt, ${kind}, state reset` : `prompt, ${kind}`);
  }

  act(keys) {
    this.control({ type: "act", keys }, keys ? `steer ${keys.toUpperCase()}` : "let go");
  }

  pause(on) {
    this.player.pause(on);
    this.socket.send({ type: on ? "pause" : "resume" });
  }

  wake() {
    if (this.state === "asleep") this.socket.wake();
  }

  speed(value) {
    this.player.excuse();
    this.socket.send({ type: "speed", value });
  }

  back(chunk) {
    this.player.excuse();
    this.socket.send({ type: "rollback", to: chunk });
  }

  /** @param {?number} chunk where the fork goes on; null: where the stream is */
  fork(chunk) {
    this.to.fork(this);
    this.socket.send({ type: "fork", ...(chunk !== null && { to: chunk }) });
  }

  record(on, states) {
    this.socket.send(on ? { type: "record", on, states } : { type: "record", on });
  }

  script() {
    this.socket.send({ type: "script" });
  }

  /** Takes the pane away and lets the session go. */
  close() {
    clearInterval(this.timer);
    this.turn += 1;
    this.player.stop();
    this.socket.close();
    this.pane.remove();
  }
}

function decoded({ encoding, width, height }, parts) {
  if (encoding === "raw") return parts.map((part) => rawPicture(part, width, height));
  return Promise.all(parts.map((part) => codedPicture(part, `image/${encoding}`)));
}
