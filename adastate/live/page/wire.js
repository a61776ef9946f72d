// The server's messages (version 1): a few requests over HTTP, and one socket per session that reconnects by itself.

const VERSION = 1;
const WAITS_MS = [200, 500, 1000, 2000, 4000]; // between attempts to reconnect
const MOST_WAITING = 16; // maximum controls kept while the connection is lost
const FINAL = { 4401: "The server needs a token: open the address that it printed.", 4403: "The server does not accept this page's address.",
  4404: "The server no longer has this session: start a new one.", 4409: "This session continues in another window." };

/** Requests over HTTP. Each throws an Error with the server's own sentence. */
export class Door {
  constructor(token) {
    this.token = token;
  }

  async ask(path, { method = "GET", body } = {}) {
    const headers = { ...(this.token && { Authorization: `Bearer ${this.token}` }), ...(body && { "Content-Type": "application/json" }) };
    const sent = body && JSON.stringify({ v: VERSION, ...body });
    let answer;
    try {
      answer = await fetch(path, { method, headers, body: sent, keepalive: method === "DELETE" });
    } catch {
      throw new Error("The server cannot be reached.");
    }
    if (answer.ok) return answer;
    const told = await answer.json().catch(() => null);
    throw new Error(typeof told?.message === "string" ? told.message : `The server answered ${answer.status}.`);
  }

  async info() {
    return (await this.ask("/v1/info")).json();
  }

  /** @returns {Promise<{session: object, pair: ?object}>} */
  async open(body) {
    return (await this.ask("/v1/sessions", { method: "POST", body })).json();
  }

  async end(id) {
    await this.ask(`/v1/sessions/${id}`, { method: "DELETE" });
  }
}

/** The socket of one session. Told of: ready(message), chunk(message, bytes), message(message), state(name, sentence). */
export class Socket {
  constructor(path, token, to) {
    Object.assign(this, { token, to, seen: null, attempts: 0, waiting: [], over: false });
    this.url = new URL(path, location.href);
    this.url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.online = () => this.again(0);
    addEventListener("online", this.online);
    this.connect();
  }

  connect() {
    clearTimeout(this.timer);
    this.head = null;
    const socket = new WebSocket(this.url);
    this.socket = socket;
    this.live = false;
    socket.binaryType = "arraybuffer";
    const mine = (handle) => (event) => socket === this.socket && handle(event);
    socket.onopen = mine(() => this.put({ type: "hello", token: this.token, seen: this.seen }));
    socket.onmessage = mine((event) => this.receive(event.data));
    socket.onclose = mine((event) => this.lost(event.code));
  }

  receive(data) {
    if (data instanceof ArrayBuffer) {
      const head = this.head;
      this.head = null;
      if (!head || (this.seen !== null && head.seq <= this.seen)) return;
      this.seen = head.seq;
      this.to.chunk(head, new Uint8Array(data));
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "chunk") this.head = message;
    else if (message.type === "ready") this.ready(message);
    else if (message.type === "closed") this.finish(message.reason === "idle" ? "asleep" : "over");
    else this.to.message(message);
  }

  ready(message) {
    this.live = true;
    this.attempts = 0;
    this.to.state("live");
    this.to.ready(message);
    for (const waiting of this.waiting.splice(0)) this.put(waiting);
  }

  lost(code) {
    this.live = false;
    if (this.over) return;
    if (FINAL[code]) this.finish("over", FINAL[code]);
    else {
      this.to.state("lost");
      this.again(WAITS_MS[Math.min(this.attempts++, WAITS_MS.length - 1)]);
    }
  }

  again(ms) {
    clearTimeout(this.timer);
    if (!this.live && !this.over) this.timer = setTimeout(() => this.connect(), ms);
  }

  /** Nothing comes any more; what is asleep is woken by `wake`. */
  finish(state, sentence) {
    this.over = true;
    this.live = false;
    this.to.state(state, sentence);
  }

  wake() {
    this.over = false;
    this.connect();
  }

  /** Sends a control, at once or when the connection is back. */
  send(message) {
    if (this.live) this.put(message);
    else if (!this.over && this.waiting.length < MOST_WAITING) this.waiting.push(message);
  }

  /** An acknowledgement is nothing to keep: what was not acknowledged comes again. */
  acknowledge(seq) {
    if (this.live) this.put({ type: "ack", seq });
  }

  put(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ v: VERSION, ...message }));
  }

  close() {
    this.over = true;
    this.live = false;
    clearTimeout(this.timer);
    removeEventListener("online", this.online);
    const { socket } = this;
    this.socket = null;
    socket.close(1000);
  }
}
