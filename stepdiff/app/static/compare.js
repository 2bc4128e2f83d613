// Rows of a test set: keys, the drawer with a row's details and its pair of clips, and filters that apply at once.
//
// The open row is part of the address (row=...), so that a copied address opens it.

import {announce, key} from "/static/keys.js";

const rows = [...document.querySelectorAll("[data-row]")];
const drawer = document.querySelector("#drawer");
const content = drawer.querySelector("[data-content]");
const frame = drawer.querySelector("iframe");
const tab = drawer.querySelector("[data-tab]");
const form = document.querySelector("#filters");
let current = -1;

function go(place) {
  if (place < 0) return announce("first row of this page");
  if (place >= rows.length) return announce("last row of this page; n: next page");
  rows[current]?.classList.remove("current");
  current = place;
  rows[current].classList.add("current");
  rows[current].scrollIntoView({block: "nearest"});
  if (!drawer.hidden) return show();
  rows[current].querySelector("a").focus({preventScroll: true});
}

/** The details of a row: a copy of those in the table, or of its template. */
function details(row) {
  const hidden = document.querySelector(`template[data-of="${CSS.escape(row.dataset.row)}"]`);
  const source = hidden ? hidden.content : row.nextElementSibling;
  return source.querySelector("[data-detail]").cloneNode(true);
}

function show() {
  content.replaceChildren(details(rows[current]));
  const pairs = [...content.querySelectorAll("[data-pair]")];
  const truth = content.querySelector(".truth [data-pair]") ?? pairs[0];
  for (const link of pairs)
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      pick(link, pairs);
    });
  for (const part of [frame, tab]) part.hidden = !truth; // the store has no such clips
  if (truth) pick(truth, pairs);
  drawer.scrollTop = 0;
  remember(rows[current].dataset.row);
}

function pick(link, pairs) {
  for (const other of pairs) {
    if (other.href === link.href) other.setAttribute("aria-current", "true");
    else other.removeAttribute("aria-current");
  }
  tab.href = link.href;
  // `replace`, so that the browser's Back leaves the page and does not walk through clips
  if (frame.contentWindow.location.href !== link.href) frame.contentWindow.location.replace(link.href);
}

function remember(row) {
  const address = new URL(location.href);
  row ? address.searchParams.set("row", row) : address.searchParams.delete("row");
  history.replaceState(null, "", address);
}

function open(place) {
  drawer.hidden = false;
  document.body.classList.add("with-drawer");
  go(place);
  drawer.focus({preventScroll: true});
}

function close() {
  if (drawer.hidden) return false;
  drawer.hidden = true;
  document.body.classList.remove("with-drawer");
  frame.contentWindow.location.replace("about:blank");
  remember("");
  rows[current]?.querySelector("a").focus();
}

const actions = {previous: () => go(current - 1), next: () => go(current + 1), close};
for (const button of drawer.querySelectorAll("[data-do]")) button.addEventListener("click", actions[button.dataset.do]);
for (const [place, row] of rows.entries())
  row.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || String(getSelection())) return;
    event.preventDefault();
    open(place);
  });

frame.addEventListener("load", () => {
  const inside = frame.contentDocument;
  if (!inside?.documentElement || frame.contentWindow.location.href === "about:blank") return;
  inside.documentElement.classList.add("framed");
  inside.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.target.matches("input, textarea, select")) return;
    const action = {j: actions.next, k: actions.previous, Escape: close}[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    drawer.focus({preventScroll: true});
    action();
  });
});

if (rows.length) {
  key("j", "next row", () => go(current + 1));
  key("k", "previous row", () => go(current - 1));
  key("enter", "open the row with its clips", () => open(Math.max(current, 0)));
  key("escape", "close the row", close);
}
for (const [name, words, wanted] of [["n", "next page", "next"], ["p", "previous page", "prev"]]) {
  const link = document.querySelector(`a[rel=${wanted}]`);
  if (link) key(name, words, () => link.click());
}
key("/", "search in texts", () => form.elements.text.focus());
key("s", "show or hide the clips of all rows", () => document.querySelector("[data-strips]").click());

// Filters apply at once. Values that are those of the first page are left out of the address.
const boxes = [...document.querySelectorAll("input[name=show]")];
const asShown = boxes.map((box) => box.checked);
const chosen = new URL(location.href).searchParams.has("show");

function submit() {
  const fields = new FormData(form);
  const address = new URL(form.action);
  const untouched = !chosen && boxes.every((box, place) => box.checked === asShown[place]);
  const needsB = ["better", "worse", "differ"].includes(fields.get("where")) || fields.get("sort") === "gap";
  for (const [name, value] of fields) {
    if (!value || (name === "show" && untouched) || (name === "b" && !needsB)) continue;
    address.searchParams.append(name, value);
  }
  location.assign(address);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
for (const field of [...form.elements, ...boxes])
  if (field.matches("select, [type=checkbox]")) field.addEventListener("change", submit);

const linked = rows.findIndex((row) => row.hasAttribute("data-open"));
if (linked >= 0) open(linked);
