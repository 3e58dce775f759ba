// <mlbox-pick>: a form of many choices, of which only those are shown whose names have what is typed into its field data-find.
class Pick extends HTMLElement {
  connectedCallback() {
    const field = this.querySelector("[data-find]");
    field.addEventListener("input", () => this.find(field.value.trim().toLowerCase()));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") event.preventDefault(); // to find is not to send
    });
  }

  find(text) {
    for (const row of this.querySelectorAll("[data-name]")) row.hidden = !row.dataset.name.includes(text);
    for (const panel of this.querySelectorAll(".panel")) panel.hidden = !panel.querySelector("[data-name]:not([hidden])");
  }
}

customElements.define("mlbox-pick", Pick);
