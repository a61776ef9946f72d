// The view of one stream: two pictures, attention, strip and numbers. It knows nothing about connections.
import { draw } from "./pictures.js";
import { Strip } from "./strip.js";

const PARTS = ["state", "past", "own"];

export class Pane {
  /** @param {{back: (chunk: number) => void, fork: (chunk: number|null) => void, close: () => void}} to */
  constructor(to) {
    this.root = document.getElementById("pane").content.firstElementChild.cloneNode(true);
    const find = (selector) => this.root.querySelector(selector);
    this.video = find(".video .frame");
    this.state = find(".state .frame");
    this.stateFigure = find(".picture.state");
    this.chunkText = find(".chunk");
    this.promptText = find(".pane-prompt");
    this.nameText = find(".pane-name");
    this.closeButton = find(".close");
    this.parts = PARTS.map((name) => [name, find(`.part.${name}`), find(`.legend .${name} output`)]);
    this.attention = find(".attention");
    this.numbers = Object.fromEntries(
      ["fps", "made", "first", "latency", "bytes", "underruns"].map((name) => [name, find(`.n-${name}`)]),
    );
    this.strip = new Strip(find(".history"), to);
    find(".fork").addEventListener("click", () => to.fork(null));
    this.closeButton.addEventListener("click", () => to.close());
    this.prompt = null;
  }

  name(text, closable) {
    this.nameText.textContent = text;
    this.root.setAttribute("aria-label", text || "The stream");
    this.closeButton.hidden = !closable;
    this.closeButton.setAttribute("aria-label", `Close pane ${text}`);
  }

  show(chunk, frame) {
    draw(this.video, chunk.frames[frame]);
    const states = chunk.states;
    if (states.length) draw(this.state, states[Math.floor((frame * states.length) / chunk.frames.length)]);
    if (frame === 0) this.begin(chunk);
  }

  begin(chunk) {
    this.root.classList.remove("waiting");
    this.stateFigure.classList.toggle("none", !chunk.states.length);
    this.chunkText.textContent = `chunk ${chunk.number}`;
    this.strip.add(chunk, chunk.prompt !== this.prompt);
    if (chunk.prompt !== this.prompt) {
      this.prompt = chunk.prompt;
      this.promptText.textContent = chunk.prompt; // as text, whatever it is
    }
    this.attention.hidden = !("state" in chunk.attention);
    if (!this.attention.hidden) this.share(chunk.attention);
  }

  share(attention) {
    for (const [name, part, output] of this.parts) {
      const percent = Math.round((attention[name] ?? 0) * 100);
      part.style.width = `${percent}%`;
      part.ariaValueNow = percent;
      output.textContent = `${percent} %`;
    }
  }

  /** The stream goes on elsewhere: what is shown is old until the next chunk is there. */
  wait(from = null) {
    this.root.classList.add("waiting");
    if (from !== null) this.strip.cut(from);
  }

  /** A fork has its parent's past to go back to. */
  past(parent, session) {
    this.strip.copy(parent.strip, session.history[0], session.chunk);
    this.prompt = session.prompt;
    this.promptText.textContent = session.prompt;
  }

  number(name, text) {
    if (this.numbers[name].textContent !== text) this.numbers[name].textContent = text;
  }

  remove() {
    this.root.remove();
  }
}

export const seconds = (s) => (s < 1 ? `${Math.round(s * 1000)} ms` : `${s.toFixed(1)} s`);

export const bytes = (n) => (n < 1e6 ? `${Math.round(n / 1e3)} kB` : `${(n / 1e6).toFixed(n < 1e7 ? 1 : 0)} MB`);
