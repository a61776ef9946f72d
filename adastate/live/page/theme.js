// Light, dark, or the system setting: a choice that this browser remembers.

const NAMES = { system: "system setting", light: "light", dark: "dark" };

export function theme(button) {
  let now = "system";
  try {
    now = localStorage.getItem("theme") ?? now;
  } catch {
    // a browser without storage starts with the system setting
  }
  const show = () => {
    if (now === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = now;
    button.setAttribute("aria-label", `Colours: ${NAMES[now] ?? now}`);
    button.title = `Colours: ${NAMES[now] ?? now} (M)`;
  };
  button.addEventListener("click", () => {
    const names = Object.keys(NAMES);
    now = names[(names.indexOf(now) + 1) % names.length];
    try {
      localStorage.setItem("theme", now);
    } catch {
      // then the choice lasts until the page is closed
    }
    show();
  });
  show();
}
