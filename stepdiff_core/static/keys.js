// Keys of all pages. A page registers each key with what it does; "?" lists them.
//
//   import {key} from "/static/keys.js";
//   key("space", "play or pause", () => player.toggle());
//
// Letters work only while no text field has the focus, and escape leaves the field. `{everywhere: true}` is for
// combinations such as "ctrl+enter". A button that was clicked with the pointer does not keep the focus, so that space
// is the page's key again; one that was reached with the keyboard does.

const registered = new Map();
const list = document.querySelector("#keys dl");
const dialog = document.querySelector("#keys");

/**
 * Register a key: its name, the words for the list, and what it does; an action that has nothing to do returns false.
 * One that is registered twice does both, but escape the first that has something to do.
 */
export function key(name, words, action, {everywhere = false} = {}) {
  const entry = registered.get(name) ?? {actions: [], line: document.createElement("dd")};
  entry.actions.push({action, everywhere});
  entry.line.append(entry.line.textContent && "; ", words);
  if (registered.has(name)) return;
  registered.set(name, entry);
  const term = document.createElement("dt");
  term.append(...(name === "+" ? [name] : name.split("+")).map((part) => Object.assign(document.createElement("kbd"), {textContent: part})));
  list.append(term, entry.line);
}

/** Show a line at the foot of the page, which screen readers read out. */
export function announce(text) {
  const status = document.querySelector("#status");
  status.textContent = text;
  status.classList.add("shown");
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => status.classList.remove("shown"), 4000);
}

/** Show words and, after a second, for how long since `start` they are true; return a function that ends the counting. */
export function waiting(element, text, start = performance.now()) {
  const [line, seconds] = [1, 2].map(() => document.createElement("span"));
  seconds.ariaHidden = "true"; // is not read out each second
  line.append(text, seconds);
  element.replaceChildren(line);
  const timer = setInterval(() => (seconds.textContent = `, ${Math.floor((performance.now() - start) / 1000)} s`), 1000);
  return () => clearInterval(timer);
}

function named(event) {
  const main = {" ": "space", ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down"}[event.key] ?? event.key.toLowerCase();
  return (event.ctrlKey || event.metaKey ? "ctrl+" : "") + main;
}

function types(target) {
  return target.isContentEditable || target.matches("textarea, select, input:not([type=radio], [type=checkbox], [type=range], [type=button])");
}

document.addEventListener("click", (event) => {
  if (event.detail > 0 && registered.has("space")) event.target.closest("button")?.blur();
});

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.altKey) return;
  if (event.key === "Escape" && types(event.target)) event.target.blur();
  const actions = registered.get(named(event))?.actions.filter(({everywhere}) => everywhere || !types(event.target)) ?? [];
  if (dialog.open && named(event) !== "?") return;
  // space and enter belong to a button, a link or a box that has the focus
  if (["space", "enter"].includes(named(event)) && event.target.matches("button, a, summary, [role=button], [type=checkbox]")) return;
  for (const {action} of actions) {
    if (action(event) === false) continue;
    event.preventDefault();
    if (event.key === "Escape") break;
  }
});

key("?", "list the keys", () => (dialog.open ? dialog.close() : dialog.showModal()));
document.querySelector("#show-keys").addEventListener("click", () => dialog.showModal());
