// <mlbox-copy>: a command with a button that copies it.
class Copy extends HTMLElement {
  connectedCallback() {
    const button = this.querySelector("button");
    if (!navigator.clipboard) {
      button?.remove(); // only https and localhost may write to the clipboard
      return;
    }
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(this.querySelector("code").textContent);
      const before = button.textContent;
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = before), 1500);
    });
  }
}

customElements.define("mlbox-copy", Copy);
