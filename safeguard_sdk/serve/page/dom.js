// The few things that every module does with the document.

export const find = (selector, within = document) => within.querySelector(selector);

export function copyOf(template) {
  return document.getElementById(template).content.firstElementChild.cloneNode(true);
}

// Text only, never HTML: names of files and words of policies come from strangers.
export function make(tag, className = "", content = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = content;
  return element;
}

export const shown = (score) => score.toFixed(2);

export const count = (number, one, many = one + "s") => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

export function save(content, name, type) {
  const link = make("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// A polite announcement once things have come to rest, for those who listen.
const waiting = new WeakMap();
export function announce(element, message, milliseconds = 500) {
  clearTimeout(waiting.get(element));
  waiting.set(element, setTimeout(() => {
    if (element.textContent !== message) element.textContent = message;
  }, milliseconds));
}
