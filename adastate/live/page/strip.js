// The strip of chunks: one button for each, video above and state below. A press rolls back; Shift (or F, or a long
// press, or in the mode "forks") forks there. One tab stop; arrow keys move within.
import { thumbnail } from "./pictures.js";

const LONG_PRESS_MS = 550;

export class Strip {
  /** @param {HTMLElement} root the section with .strip and .tap
   *  @param {{back: (chunk: number) => void, fork: (chunk: number) => void}} to */
  constructor(root, to) {
    this.list = root.querySelector(".strip");
    this.to = to;
    this.forks = false;
    this.buttons = new Map();
    for (const tap of root.querySelectorAll("[data-tap]")) {
      tap.addEventListener("click", () => {
        this.forks = tap.dataset.tap === "fork";
        for (const other of root.querySelectorAll("[data-tap]")) other.setAttribute("aria-pressed", other === tap);
      });
    }
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("click", (event) => this.press(event));
    this.list.addEventListener("pointerdown", (event) => this.hold(event));
    for (const end of ["pointerup", "pointercancel", "pointermove"]) {
      this.list.addEventListener(end, () => clearTimeout(this.timer));
    }
    this.list.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  /** @param chunk a chunk that is being shown. @param {boolean} changed whether a new prompt began with it */
  add(chunk, changed) {
    this.cut(chunk.number);
    const button = this.button(chunk.number, chunk.prompt, changed, thumbnail(chunk));
    const atEnd = this.list.scrollWidth - this.list.scrollLeft - this.list.clientWidth < 80;
    this.list.append(button);
    this.buttons.set(chunk.number, button);
    for (const other of this.list.querySelectorAll("[aria-current]")) other.removeAttribute("aria-current");
    button.setAttribute("aria-current", "true");
    if (!this.list.contains(document.activeElement)) this.stop(button);
    if (atEnd) this.list.scrollLeft = this.list.scrollWidth;
  }

  button(number, prompt, changed, picture) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = changed ? "chunk-button changed" : "chunk-button";
    button.dataset.chunk = number;
    button.tabIndex = -1;
    button.setAttribute("aria-label", `Chunk ${number}${changed ? ", a new prompt" : ""}`);
    button.title = prompt;
    button.append(picture, Object.assign(document.createElement("span"), { textContent: number }));
    return button;
  }

  /** Copies another strip's chunks from `first` up to, but not including, `end`. */
  copy(other, first, end) {
    for (const [number, old] of other.buttons) {
      if (number < first || number >= end) continue;
      const from = old.querySelector("canvas");
      const picture = from.cloneNode();
      picture.getContext("2d").drawImage(from, 0, 0);
      const button = this.button(number, old.title, old.classList.contains("changed"), picture);
      this.list.append(button);
      this.buttons.set(number, button);
    }
    this.list.scrollLeft = this.list.scrollWidth;
  }

  /** Forgets the chunks from a number on, which a stream that went back will make anew. */
  cut(from) {
    for (const number of [...this.buttons.keys()]) if (number >= from) this.remove(number);
  }

  /** Keeps those that the session can still go back to. */
  keep(first) {
    for (const number of [...this.buttons.keys()]) if (number < first) this.remove(number);
  }

  remove(number) {
    const button = this.buttons.get(number);
    const focused = button === document.activeElement;
    const wide = button.offsetWidth + 4;
    const before = button.nextElementSibling && button.offsetLeft < this.list.scrollLeft + this.list.clientWidth;
    button.remove();
    this.buttons.delete(number);
    if (focused) (this.list.firstElementChild ?? this.list).focus();
    else if (before && this.list.scrollLeft > wide) this.list.scrollLeft -= wide;
  }

  stop(button) {
    for (const other of this.buttons.values()) other.tabIndex = other === button ? 0 : -1;
  }

  press(event) {
    const button = event.target.closest(".chunk-button");
    if (!button || this.held) return (this.held = false);
    const fork = event.shiftKey || this.forks;
    this.to[fork ? "fork" : "back"](Number(button.dataset.chunk));
  }

  hold(event) {
    const button = event.target.closest(".chunk-button");
    clearTimeout(this.timer);
    this.held = false;
    if (!button || event.pointerType === "mouse") return;
    this.timer = setTimeout(() => {
      this.held = true;
      this.to.fork(Number(button.dataset.chunk));
    }, LONG_PRESS_MS);
  }

  key(event) {
    const button = event.target.closest(".chunk-button");
    if (!button || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = [...this.list.children];
    const at = all.indexOf(button);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 }[event.key];
    if (to !== undefined) {
      const next = all[Math.max(0, Math.min(all.length - 1, to))];
      this.stop(next);
      next.focus();
    } else if (event.key.toLowerCase() === "f") this.to.fork(Number(button.dataset.chunk));
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
