// The keyboard: keys that steer while they are held, and shortcuts. Both are off while the user types.

const ARROWS = { ArrowUp: "w", ArrowLeft: "a", ArrowDown: "s", ArrowRight: "d" };
const PLACES = { w: "up", a: "left", s: "down", d: "right", i: "up", j: "left", k: "down", l: "right" };
const FLIGHT = { w: "faster", s: "slower", a: "bank", d: "bank", i: "climb", k: "sink", j: "look", l: "look" };
const SPOKEN = { ...FLIGHT, a: "bank left", d: "bank right", j: "look left", l: "look right" };

const typing = (target) => target.closest?.("input:not([type=radio], [type=checkbox]), textarea, select, dialog");
const chooses = (target) => target.matches?.("[type=radio]"); // arrow keys change the selection

export class Steering {
  /** @param {HTMLElement} pad where the buttons go. @param {(keys: string) => void} act told whenever what is held changes */
  constructor(pad, act) {
    Object.assign(this, { pad, act, known: "", held: new Map(), told: "" });
    addEventListener("keydown", (event) => this.down(event));
    addEventListener("keyup", (event) => this.release(`key ${event.code}`));
    addEventListener("blur", () => this.releaseAll());
    document.addEventListener("visibilitychange", () => document.hidden && this.releaseAll());
  }

  /** @param {string} keys those the network was trained with, "wasdijkl" or its beginning. @param {boolean} flight whether
   *  they mean what they mean in the flight world */
  know(keys, flight) {
    this.releaseAll();
    this.known = keys;
    const clusters = ["wasd", "ijkl"].map((group) => [...group].filter((key) => keys.includes(key)));
    this.pad.replaceChildren(...clusters.filter((group) => group.length).map((group) => this.cluster(group, flight)));
  }

  cluster(group, flight) {
    const cluster = document.createElement("div");
    cluster.className = "cluster";
    for (const key of group) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = `key ${PLACES[key]}`;
      button.dataset.key = key;
      button.setAttribute("aria-label", flight ? `${SPOKEN[key]}, key ${key.toUpperCase()}` : `key ${key.toUpperCase()}`);
      button.setAttribute("aria-pressed", "false");
      const name = document.createElement("small");
      name.textContent = flight ? FLIGHT[key] : "";
      button.append(key.toUpperCase(), name);
      button.addEventListener("pointerdown", (event) => {
        button.setPointerCapture(event.pointerId);
        this.press(`pointer ${event.pointerId}`, key);
      });
      for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
        button.addEventListener(end, (event) => this.release(`pointer ${event.pointerId}`));
      }
      // by keyboard or screen reader, one press holds the key and the next releases it
      button.addEventListener("click", (event) => {
        if (event.detail === 0) this.held.has(`held ${key}`) ? this.release(`held ${key}`) : this.press(`held ${key}`, key);
      });
      button.addEventListener("contextmenu", (event) => event.preventDefault());
      cluster.append(button);
    }
    return cluster;
  }

  down(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    const key = ARROWS[event.key] ?? event.key.toLowerCase();
    if (event.key in ARROWS && chooses(event.target)) return;
    if (!this.known || key.length !== 1 || !this.known.includes(key)) return;
    event.preventDefault();
    if (!event.repeat) this.press(`key ${event.code}`, key);
  }

  press(source, key) {
    this.held.set(source, key);
    this.tell();
  }

  release(source) {
    if (this.held.delete(source)) this.tell();
  }

  releaseAll() {
    this.held.clear();
    this.tell();
  }

  tell() {
    const down = new Set(this.held.values());
    const keys = [...this.known].filter((key) => down.has(key)).join("");
    for (const button of this.pad.querySelectorAll(".key")) {
      const held = keys.includes(button.dataset.key);
      button.classList.toggle("held", held);
      button.setAttribute("aria-pressed", String(held));
    }
    if (keys === this.told) return;
    this.told = keys;
    this.act(keys);
  }
}

/** @param {Record<string, () => void>} actions what each key does; letters in lower case */
export function shortcuts(actions) {
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (typing(event.target)) return;
    const action = actions[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
