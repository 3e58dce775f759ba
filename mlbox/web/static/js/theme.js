// <mlbox-theme>: a button that goes from the system's theme to light, to dark and back. A cookie carries the choice, so that
// the server writes it into the page and nothing flashes.
const NEXT = { "": "light", light: "dark", dark: "" };
const NAMES = { "": "system", light: "light", dark: "dark" };
const YEAR = 31536000;

class Theme extends HTMLElement {
  connectedCallback() {
    this.querySelector("button").addEventListener("click", () => this.choose(NEXT[this.current()]));
    this.label();
  }

  current() {
    return document.documentElement.dataset.theme ?? "";
  }

  choose(theme) {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    document.cookie = `mlbox_theme=${theme}; path=/; samesite=lax; max-age=${theme ? YEAR : 0}`;
    this.label();
    document.dispatchEvent(new CustomEvent("mlbox:theme"));
  }

  label() {
    const now = this.current();
    this.querySelector("[data-name]").textContent = NAMES[now];
    this.querySelector("button").title = `Theme: ${NAMES[now]}. Press for ${NAMES[NEXT[now]]}.`;
  }
}

customElements.define("mlbox-theme", Theme);
