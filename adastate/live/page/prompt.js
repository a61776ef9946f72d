// The prompt box: suggests vocabulary words while the user types, and complete examples when it is empty.

const MOST = 8;

export class PromptBox {
  /** @param {{box: HTMLTextAreaElement, list: HTMLElement, note: HTMLElement, submit: () => void}} parts */
  constructor({ box, list, note, submit }) {
    Object.assign(this, { box, list, note, submit, words: [], examples: [], chosen: -1 });
    box.addEventListener("input", () => this.suggest());
    box.addEventListener("focus", () => box.value || this.suggest());
    box.addEventListener("blur", () => this.close());
    box.addEventListener("keydown", (event) => this.key(event));
    list.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the box keeps the focus
      const item = event.target.closest("li");
      if (item) this.accept(item);
    });
  }

  know(words, examples) {
    this.words = words;
    this.examples = examples;
  }

  get value() {
    return this.box.value.trim().replace(/\s+/g, " ");
  }

  set value(text) {
    this.box.value = text;
    this.check();
  }

  begun() {
    return /[\p{L}-]*$/u.exec(this.box.value.slice(0, this.box.selectionStart))[0].toLowerCase();
  }

  suggest() {
    const begun = this.begun();
    const fit = begun ? this.words.filter((word) => this.continues(word, begun)) : [];
    this.open((this.value ? fit : this.examples).slice(0, MOST));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.check(), 500);
  }

  continues(word, begun) {
    const small = word.toLowerCase(); // FPV is a word, too
    return small.startsWith(begun) && small !== begun;
  }

  check() {
    const known = new Set(this.words.map((word) => word.toLowerCase()));
    const used = this.value.toLowerCase().match(/[\p{L}-]+/gu) ?? [];
    const strange = known.size ? [...new Set(used.filter((word) => !known.has(word)))] : [];
    this.note.textContent = strange.length ? `Never seen in training: ${strange.slice(0, 6).join(", ")}` : "";
  }

  open(texts) {
    this.chosen = -1;
    this.box.removeAttribute("aria-activedescendant");
    this.list.replaceChildren(
      ...texts.map((text, n) => {
        const item = document.createElement("li");
        item.id = `word-${n}`;
        item.role = "option";
        item.textContent = text;
        item.ariaSelected = "false";
        return item;
      }),
    );
    this.list.hidden = !texts.length;
    this.box.ariaExpanded = String(!this.list.hidden);
  }

  close() {
    this.open([]);
    this.check();
  }

  accept(item) {
    const { box } = this;
    if (this.value) {
      const begun = this.begun();
      const at = box.selectionStart;
      const after = box.value.slice(at);
      box.value = `${box.value.slice(0, at - begun.length)}${item.textContent}${after.startsWith(" ") ? "" : " "}${after}`;
      box.selectionStart = box.selectionEnd = at - begun.length + item.textContent.length + 1;
    } else box.value = item.textContent;
    this.close();
  }

  key(event) {
    const items = [...this.list.children];
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (this.chosen >= 0) this.accept(items[this.chosen]);
      else this.submit();
    } else if (event.key === "Escape") {
      if (items.length) this.close();
      else this.box.blur();
    } else if (items.length && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      const by = event.key === "ArrowDown" ? 1 : -1;
      this.chosen = this.chosen < 0 && by < 0 ? items.length - 1 : (this.chosen + by + items.length) % items.length;
      items.forEach((item, n) => (item.ariaSelected = String(n === this.chosen)));
      items[this.chosen].scrollIntoView({ block: "nearest" });
      this.box.setAttribute("aria-activedescendant", items[this.chosen].id);
    }
  }
}
