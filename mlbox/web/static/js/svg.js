// One SVG element with its attributes and what is in it; a text becomes text.
export function svg(name, attributes = {}, ...inside) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) element.setAttribute(key, value);
  element.append(...inside);
  return element;
}

// A picture with its buttons: PNG, and CSV of what its shapes stand for.
export function picture(label, drawn) {
  const element = document.createElement("mlbox-picture");
  element.setAttribute("label", label);
  element.append(drawn);
  return element;
}
