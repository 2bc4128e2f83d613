// The form of a pair: texts, scores, the scoring matrix of the focused category, reject, undo and submit.
//
// A category has a score because somebody chose one, or 5 because its text was left empty: the person went from the text
// to another field of the form, or deleted what it had. A text that nobody saw sets no score. The server has this rule too.

import {announce, key} from "/static/keys.js";
import {Saving} from "/static/annotate_saving.js";
import {again, leaveBy, reason, send} from "/static/annotate_send.js";

const IDLE = 60; // seconds without a key or the pointer after which the person does not work
const page = JSON.parse(document.querySelector("#work").textContent);
const form = document.querySelector("#form");
const keystep = document.querySelector("#keystep");
const reasons = document.querySelector("#reasons");
const rows = [...form.querySelectorAll("[data-category]")].map((root) => ({
  root,
  name: root.dataset.category,
  title: root.querySelector("label").textContent,
  text: root.querySelector("textarea"),
  note: root.querySelector(".annotate-note"),
  group: root.querySelector("fieldset"),
  scores: [...root.querySelectorAll("input")],
  chosen: null, // what the person chose
  left: false, // the text was left empty, or has words
}));
const saved = document.querySelector("#saved");
const saving = new Saving(page, (text, fails) => {
  saved.textContent = text;
  saved.classList.toggle("error", fails);
});

function words(text) {
  return text.trim() ? text.trim().split(/\s+/).length : 0;
}

function scoreOf(row) {
  return row.chosen ?? (row.left && !words(row.text.value) ? 5 : null);
}

function showScore(row) {
  const score = scoreOf(row);
  for (const input of row.scores) input.checked = Number(input.value) === score;
}

function write(row) {
  row.left = true;
  saving.change("texts", row.text.value, row.name);
  showScore(row);
  check(false);
}

function note(element, text, problem) {
  element.textContent = problem ? `✗ ${problem}` : text;
  element.classList.toggle("error", Boolean(problem));
}

/** Show the word counts, and problems where `complete` or where one is certain already. Returns the first faulty field. */
function check(complete) {
  const count = words(keystep.value);
  let problem = count > page.keystep_words ? `${count} words: write at most ${page.keystep_words}` : "";
  if (!problem && complete && !count) problem = `Write the step that both clips show, in at most ${page.keystep_words} words`;
  note(keystep.nextElementSibling, `${count}/${page.keystep_words} words`, problem);
  let first = problem ? keystep : null;
  for (const row of rows) {
    const length = words(row.text.value), score = scoreOf(row);
    let wrong = "";
    if (!length && score !== null && score < 5) wrong = "Describe the difference, or choose 5";
    else if (complete && score === null) wrong = length ? "Choose a score from 1 to 5" : "Describe a difference, or choose 5";
    note(row.note, length === 1 ? "1 word" : `${length} words`, wrong);
    if (wrong) first ??= length ? row.scores[0] : row.text;
  }
  return first;
}

function follow(row) {
  for (const section of document.querySelectorAll("[data-rubric]")) section.hidden = section.dataset.rubric !== row.name;
  const score = String(scoreOf(row));
  for (const line of document.querySelectorAll("[data-rubric] [data-score]"))
    line.toggleAttribute("data-chosen", line.dataset.score === score);
}

function choose(row, value) {
  row.chosen = value;
  showScore(row);
  saving.change("scores", value, row.name);
  check(false);
  follow(row);
}

function fill() {
  const {changes} = saving;
  keystep.value = changes.keystep ?? page.form.keystep;
  for (const row of rows) {
    const text = changes.texts?.[row.name] ?? page.form.texts[row.name];
    const kept = changes.scores?.[row.name];
    row.text.value = text ?? "";
    row.left = text !== undefined;
    row.chosen = (kept === undefined ? page.form.scores[row.name] : kept) ?? null;
    showScore(row);
  }
  check(false);
}

async function submit(rejected) {
  if (saving.submitting) return;
  const last = rows.find((row) => row.text === document.activeElement);
  if (rejected === null && last && scoreOf(last) === null && !words(last.text.value)) write(last);
  const faulty = rejected === null && check(true);
  if (faulty) {
    faulty.focus();
    announce("✗ not submitted: see the marked lines");
    return;
  }
  document.querySelector(".annotate").inert = true;
  const result = await saving.submit(rejected);
  if (result.done) {
    if (result.feedback) await explain(result.feedback);
    return again(announce);
  }
  document.querySelector(".annotate").inert = false;
  announce(`✗ ${result.gone ?? result.problems.join(" ")}`);
  if (result.gone) setTimeout(() => again(announce), 4000);
}

/** Show the known scores until the person goes on. */
function explain(feedback) {
  const dialog = document.querySelector("#feedback");
  const body = dialog.querySelector("tbody");
  for (const {title, yours, known, agrees} of feedback.scores) {
    const line = document.createElement("tr");
    for (const [text, kind] of [[title, ""], [yours ?? "–", "number"], [known, "number"], [agrees ? "✓ close enough" : "✗ too far", agrees ? "good" : "bad"]])
      line.append(Object.assign(document.createElement("td"), {textContent: text, className: kind}));
    body.append(line);
  }
  dialog.querySelector("[data-text]").innerHTML = feedback.html; // Markdown of the task, in which HTML is text
  dialog.showModal();
  dialog.querySelector("button").focus();
  return new Promise((resolve) => dialog.addEventListener("close", resolve, {once: true}));
}

async function undo() {
  const result = await send("/annotate/undo", {});
  if (result.status === 200) again(announce);
  else announce(`✗ ${reason(result)}`);
}

fill();
keystep.addEventListener("input", () => {
  saving.change("keystep", keystep.value);
  check(false);
});
keystep.addEventListener("keydown", (event) => event.key === "Enter" && !event.ctrlKey && event.preventDefault());
form.addEventListener("submit", (event) => event.preventDefault());
for (const row of rows) {
  row.text.addEventListener("input", () => write(row));
  row.text.addEventListener("blur", ({relatedTarget: to}) => {
    const away = to && to !== form && form.contains(to) && !row.group.matches(":active"); // a click on an own score chooses it
    if (away && scoreOf(row) === null && !words(row.text.value)) write(row);
  });
  for (const input of row.scores) input.addEventListener("change", () => choose(row, Number(input.value)));
  row.group.addEventListener("focusin", ({target}) => {
    const checked = row.scores.find((input) => input.checked);
    if (checked && !row.group.matches(":active") && target !== checked) checked.focus(); // the text has just set it
  });
  row.group.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (/^[1-5]$/.test(event.key)) {
      choose(row, Number(event.key));
      row.scores[Number(event.key) - 1].focus();
    } else if (["0", "Backspace", "Delete"].includes(event.key)) choose(row, null);
    else return;
    event.preventDefault();
  });
  row.root.addEventListener("focusin", () => follow(row));
}
form.addEventListener("keydown", (event) => {
  if (event.key === "Escape") form.focus(); // leaves a text, so that letters are keys again
});
document.querySelector("#submit").addEventListener("click", () => submit(null));
document.querySelector("#undo").addEventListener("click", undo);
leaveBy(document.querySelector("#leave"), announce);
document.querySelector("#reject").addEventListener("click", () => reasons.showModal());
for (const [place, button] of reasons.querySelectorAll("[data-reason]").entries()) {
  button.addEventListener("click", () => {
    reasons.close();
    submit(button.dataset.reason);
  });
  reasons.addEventListener("keydown", (event) => event.key === String(place + 1) && button.click());
}
for (const dialog of document.querySelectorAll("#reasons, #feedback"))
  dialog.addEventListener("keydown", (event) => event.stopPropagation()); // not the keys of the page
key("ctrl+enter", "submit and go on", () => submit(null), {everywhere: true});
key("u", "undo the last submission", undo);
key("g", "open the guidelines", () => document.querySelector("#guidelines").click());
key("r", "reject the pair with a reason", () => reasons.showModal());

let active = 0; // when the person did something
for (const name of ["keydown", "pointermove", "pointerdown"]) addEventListener(name, () => (active = Date.now()), {passive: true});
active = Date.now();
setInterval(() => {
  if (!document.hidden && Date.now() - active < IDLE * 1000) saving.worked(1);
}, 1000);
form.focus({preventScroll: true});
