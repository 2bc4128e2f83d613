// Notes about a pair, each at a moment of one video, and the coach's card.
//
// A note is listed once the server has stored it; one that is not stored stays in the form, with the reason.

import {reason, request, send} from "/static/annotate_send.js";
import {announce, key} from "/static/keys.js";
import {clock, made} from "/static/pair_words.js";

const {reference, candidate} = JSON.parse(document.querySelector("#pair-data").textContent);
const pair = {reference: reference.clip.key, candidate: candidate.clip.key};
const {player} = document.querySelector("[data-player]");
const form = document.querySelector("#note");
const {video: side, text, author} = form.elements;
const saveButton = form.querySelector("button.main");
const list = document.querySelector("#notes");
const cardButton = document.querySelector("#card");
const MOST = 3; // notes on a card
const ticked = new Set(); // ids of notes for the card
let notes = [];
let edited = null; // the note in the form; null: a new one
let moments = [0, 0]; // of a new note, in each clip
let opener = null; // what has the focus again after the form

const now = () => player.videos.map((video) => video.currentTime);
const line = form.querySelector("[role=alert]");

author.value = localStorage.getItem("author") ?? "";

function draw() {
  notes.sort((one, other) => one.seconds - other.seconds || one.video - other.video);
  list.replaceChildren(...notes.map(row));
  if (!notes.length) list.append(made("li", {class: "quiet"}, "No notes yet."));
  for (const box of list.querySelectorAll("input")) box.disabled = !box.checked && ticked.size >= MOST;
}

function row(note) {
  const at = made("button", {type: "button", class: "at quiet"}, `${clock(note.seconds)} (${note.video})`);
  at.ariaLabel = `Show ${clock(note.seconds)} of Video ${note.video}`;
  at.addEventListener("click", () => {
    player.show(note.video - 1, note.seconds);
  });
  const item = made("li", {class: note.video === 1 ? "one" : "two"}, at, made("span", {class: "text"}, note.text));
  const when = new Date(note.edited || note.written).toLocaleDateString();
  item.append(made("span", {class: "quiet small"}, `${note.author}, ${note.edited ? "edited " : ""}${when}`));
  if (note.author === author.value.trim()) {
    const edit = made("button", {type: "button", class: "quiet small", "aria-label": `Edit the note: ${note.text}`}, "Edit");
    edit.addEventListener("click", () => open(note));
    const remove = made("button", {type: "button", class: "quiet small", "aria-label": `Delete the note: ${note.text}`}, "Delete");
    remove.addEventListener("click", () => drop(note));
    item.append(edit, remove);
  }
  const box = made("input", {type: "checkbox", "aria-label": `On the card: ${note.text}`});
  box.checked = ticked.has(note.id);
  box.addEventListener("change", () => {
    box.checked ? ticked.add(note.id) : ticked.delete(note.id);
    for (const other of list.querySelectorAll("input")) other.disabled = !other.checked && ticked.size >= MOST;
  });
  item.append(made("label", {class: "quiet small"}, box, " card"));
  return item;
}

/** Show the form for a new note at this moment, or for another text of a note. */
function open(note = null) {
  if (!form.hidden) return text.focus(); // what was typed there stays
  player.pause();
  opener = document.querySelector(":focus-visible");
  [edited, moments] = [note, now()];
  const shown = note ? [note.seconds, note.seconds] : moments;
  form.querySelectorAll("output").forEach((output, place) => (output.textContent = clock(shown[place])));
  if (note) side.value = String(note.video);
  for (const radio of side) radio.closest("label").hidden = note !== null && radio.value !== side.value;
  author.readOnly = note !== null;
  text.value = note?.text ?? "";
  line.textContent = "";
  form.hidden = false;
  text.focus();
}

/** Show the form with words about a video, which a tool has found out; what was typed there stays. */
export function noteOf(video, words) {
  open();
  side.value = String(video);
  text.value = [text.value, words].filter(Boolean).join("; ");
}

function close() {
  form.hidden = true;
  if (opener?.isConnected) opener.focus();
}

async function save() {
  const body = {author: author.value, text: text.value};
  const number = Number(side.value);
  saveButton.disabled = true; // enter does not store a second note
  const result = edited
    ? await send(`/notes/${edited.id}/edit`, body)
    : await send("/notes", {...pair, video: number, seconds: moments[number - 1], ...body});
  saveButton.disabled = false;
  if (result.status !== 200) {
    line.textContent = `✗ not saved: ${reason(result)}`;
    return;
  }
  author.value = result.body.author;
  localStorage.setItem("author", author.value);
  keep(result.body);
  close();
  announce("note saved");
}

/** List a stored note; a new one is on the card while there is room. */
function keep(note) {
  const others = notes.filter(({id}) => id !== note.id);
  if (others.length === notes.length && ticked.size < MOST) ticked.add(note.id);
  notes = [...others, note];
  draw();
}

async function drop(note) {
  if (!confirm(`Delete the note “${note.text}”?`)) return;
  const result = await send(`/notes/${note.id}/delete`, {author: note.author});
  if (result.status !== 200) return announce(`✗ not deleted: ${reason(result)}`);
  notes = notes.filter(({id}) => id !== note.id);
  ticked.delete(note.id);
  draw();
  announce("note deleted");
}

/** Download the card of this moment. */
async function card() {
  cardButton.disabled = true;
  announce("the card is being made");
  const last = document.querySelector("#answers article[data-ended]");
  const [asked, said] = ["asked", "answer"].map((name) => last?.querySelector(`.${name}`).textContent ?? "");
  const answer = last?.querySelector(".cut") ? `${said} … (cut off)` : said;
  const body = {...pair, moments: now(), notes: [...ticked], ...(answer ? {question: asked, answer} : {})};
  try {
    const headers = {"Content-Type": "application/json", Accept: "application/json"};
    const response = await request("/notes/card", {method: "POST", headers, body: JSON.stringify(body)});
    if (!response.ok) throw new Error((await response.json()).error);
    const link = made("a", {href: URL.createObjectURL(await response.blob()), download: "card.html"});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    announce("the card is saved as card.html");
  } catch (error) {
    announce(`✗ no card: ${error.message}`);
  }
  cardButton.disabled = false;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  save();
});
form.addEventListener("keydown", (event) => {
  event.stopPropagation(); // keys of the page do nothing here
  if (event.key === "Escape") close();
});
document.querySelector("#note-cancel").addEventListener("click", close);
author.addEventListener("change", draw);
for (const name of ["#add-note", "#note-here"]) document.querySelector(name).addEventListener("click", () => open());
cardButton.addEventListener("click", card);
key("n", "add a note at this moment", () => open());
key("c", "save the coach’s card of this moment", card);

try {
  const response = await request(`/notes?${new URLSearchParams(pair)}`, {headers: {Accept: "application/json"}});
  const stored = await response.json();
  if (!response.ok) throw new Error(stored.error);
  notes = stored.notes;
  for (const {id} of notes.slice(0, MOST)) ticked.add(id);
  draw();
} catch (error) {
  list.replaceChildren(made("li", {class: "error"}, error.message));
}
