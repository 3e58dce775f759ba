// What every page loads: one module per custom element, and the form token on htmx's own requests.
import "./copy.js";
import "./form.js";
import "./keys.js";
import "./live.js";
import "./picture.js";
import "./table.js";
import "./theme.js";
import "./time.js";
import "./try.js";

document.addEventListener("htmx:configRequest", (event) => {
  event.detail.headers["x-csrf-token"] = document.querySelector("meta[name=csrf]")?.content ?? "";
});

// The address of a view says what was asked for, and not which fields were left empty.
document.addEventListener("formdata", (event) => {
  if (event.target.getAttribute("method") !== "get") return;
  for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
});

// The session has ended: the page itself knows the way to the sign-in and back.
document.addEventListener("htmx:responseError", (event) => {
  if (event.detail.xhr.status === 401) location.reload();
});
