// <mlbox-keys>: a key presses the button inside it that carries it as data-key, unless somebody is writing.
class Keys extends HTMLElement {
  connectedCallback() {
    this.onKey = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
      const button = [...this.querySelectorAll("[data-key]")].find((one) => one.dataset.key === event.key);
      if (!button || button.disabled) return;
      event.preventDefault();
      button.click();
    };
    document.addEventListener("keydown", this.onKey);
  }

  disconnectedCallback() {
    document.removeEventListener("keydown", this.onKey);
  }
}

customElements.define("mlbox-keys", Keys);
