// The page of a pair: similarity bars, questions, captions that are written on request.

import {key} from "/static/keys.js";
import {Desk} from "/static/pair_events.js";
import {basis, made, showWords, signed} from "/static/pair_words.js";

const page = JSON.parse(document.querySelector("#pair-data").textContent);
const pair = {reference: page.reference.clip.key, candidate: page.candidate.clip.key};
const head = document.querySelector("#head");
const desk = new Desk();
const MOST_ANSWERS = 20; // that are kept of a pair
const ANSWERS = `answers ${JSON.stringify(pair)}`;
const answers = JSON.parse(sessionStorage.getItem(ANSWERS) ?? "[]"); // of this tab, oldest first
const SVG = "http://www.w3.org/2000/svg";

/** Return a bar from 0 to the log-odds on a scale from -most to most. */
function bar(value, most) {
  const svg = document.createElementNS(SVG, "svg");
  const set = (name, attributes) => {
    const shape = document.createElementNS(SVG, name);
    for (const [key, number] of Object.entries(attributes)) shape.setAttribute(key, number);
    svg.append(shape);
  };
  svg.setAttribute("viewBox", "-100 0 200 12");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("pair-bar");
  const band = Math.min((100 * page.unsure) / most, 100);
  set("rect", {x: -band, width: band, y: 0, height: 12, class: "band"});
  const length = Math.min((100 * Math.abs(value)) / most, 100);
  set("rect", {x: value < 0 ? -length : 0, width: length, y: 2, height: 8, class: value < 0 ? "apart" : "near"});
  set("rect", {x: -0.4, width: 0.8, y: 0, height: 12, class: "zero"});
  return svg;
}

/** Draw the bars of all heads, category by category. */
function drawAlike() {
  const place = document.querySelector("#alike");
  const all = page.similar.flatMap((each) => each.values.map((value) => Math.abs(value.log_odds)));
  const most = Math.max(1, Math.ceil(Math.max(0, ...all)));
  const body = made("tbody");
  const extra = page.similar.flatMap((each) => each.values.map((value) => value.category));
  for (const category of new Set([...page.categories, ...extra])) {
    const heads = page.similar.length ? page.similar : [{head: "", values: []}];
    heads.forEach((each, number) => {
      const value = each.values.find((found) => found.category === category);
      const row = made("tr");
      if (number === 0) {
        const truth = page.truth[category];
        const note = truth === undefined ? [] : [made("span", {class: "quiet small"}, ` true score ${truth} of 5`)];
        row.append(made("th", {scope: "row", rowspan: heads.length}, category, ...note));
      }
      if (page.similar.length > 1) row.append(made("td", {class: "small quiet"}, each.head));
      row.append(made("td", {class: "pair-bars"}, ...(value ? [bar(value.log_odds, most)] : [])));
      row.append(made("td", {class: "pair-odds"}, value ? signed(value.log_odds) : "–"));
      row.append(made("td", {class: "pair-verdict"}, ...(value?.verdict ? [made("b", {class: "verdict", title: value.reason}, value.verdict)] : [])));
      body.append(row);
    });
  }
  const scale = made("tr", {class: "quiet small"}, made("td"), ...(page.similar.length > 1 ? [made("td")] : []));
  scale.append(made("td", {class: "pair-scale"}, made("span", {}, `−${most}: different`), made("span", {}, "0"), made("span", {}, `alike: +${most}`)), made("td"), made("td"));
  const caption = page.similar.length === 1 ? page.similar[0].head : page.similar.length ? "" : "not computed yet";
  place.replaceChildren(made("table", {class: "pair-alike"}, made("caption", {class: "quiet small"}, caption), body, made("tfoot", {}, scale)));
}

/** Keep log-odds of a head and draw all. */
function keepAlike(name, values) {
  const earlier = page.similar.find((each) => each.head === name)?.values ?? [];
  const rest = earlier.filter((each) => !values.some((value) => value.category === each.category));
  page.similar = [{head: name, values: [...values, ...rest]}, ...page.similar.filter((each) => each.head !== name)];
  drawAlike();
}

async function compute() {
  const found = await desk.run("/pair/alike", {head: head.value, ...pair});
  if (found) keepAlike(found.head, found.values);
}

/** Add an entry above the earlier ones; return it with its answer and the note below. */
function addEntry({question, answer, declines, note, rests}) {
  const entry = made("article", {"aria-label": question}, made("p", {class: "asked"}, question));
  const words = made("p", {class: "answer"}, answer);
  const below = made("p", {class: "small quiet note"});
  entry.append(words, below);
  fillNote(below, note, declines, rests);
  document.querySelector("#answers").prepend(entry);
  document.querySelector("#forget").hidden = false;
  return [entry, words, below];
}

function fillNote(below, note, declines, rests = []) {
  below.replaceChildren(...(declines ? [made("b", {class: "verdict"}, "would decline"), `: ${declines}. `] : []), note);
  if (rests.length) below.after(...basis(rests));
}

/** Ask a question; its answer is written into a new entry, which this tab keeps over a reload. */
async function ask(question, preset) {
  const model = head.value;
  const kept = {question, answer: "", declines: "", note: "not finished"};
  const [entry, words, below] = addEntry(kept);
  const end = (note, declines = "", rests = []) => {
    entry.removeAttribute("aria-busy");
    fillNote(below, note, declines, rests);
    Object.assign(kept, {answer: words.textContent, note, declines, rests});
    save();
  };
  entry.setAttribute("aria-busy", "true");
  answers.push(kept);
  answers.splice(0, answers.length - MOST_ANSWERS);
  save();
  const body = {head: model, ...pair, ...(preset ? {preset} : {question})};
  const found = await desk.run("/pair/ask", body, {
    status: (text) => (below.textContent = text),
    words: ({text}) => {
      if (!words.textContent) entry.scrollIntoView({block: "nearest"}); // later words do not move the page
      words.append(text);
    },
    stopped: () => end("stopped"),
    failed: (error) => end(error.message),
  });
  if (!found) return;
  words.textContent = found.answer;
  end(`${model}, first word after ${found.first.toFixed(1)} s, ${found.seconds.toFixed(1)} s in all`, found.declines, found.rests_on);
  keepAlike(model, found.similar);
}

function save() {
  sessionStorage.setItem(ANSWERS, JSON.stringify(answers));
}

function forget() {
  answers.length = 0;
  save();
  document.querySelector("#answers").replaceChildren();
  document.querySelector("#forget").hidden = true;
}

/** Show the captions that a head has written, in the last column. */
function showWritten(name, captions) {
  document.querySelector("#written-by").textContent = `by ${name}`;
  for (const {category, caption, declines} of captions) {
    const row = [...document.querySelectorAll("[data-category]")].find((each) => each.dataset.category === category);
    const pieces = caption.pieces.map((piece) => (piece.supported ? made("u", {}, piece.text) : piece.text));
    const note = declines ? [made("p", {class: "small"}, made("b", {class: "verdict", title: declines}, "would decline"))] : [];
    const details = caption.details.map(({words, video, judgement}) =>
      made("li", {}, made("b", {class: `verdict ${judgement}`}, judgement), ` ${words} `, made("span", {class: "quiet"}, `(Video ${video})`)));
    row.querySelector(".written").replaceChildren(...pieces, ...(details.length ? [made("ul", {class: "details"}, ...details)] : []), ...note);
  }
}

async function write() {
  for (const cell of document.querySelectorAll(".written")) cell.textContent = "…";
  const clear = () => {
    for (const cell of document.querySelectorAll(".written")) cell.textContent = "";
  };
  const found = await desk.run("/pair/captions", {head: head.value, ...pair}, {stopped: clear, failed: clear});
  if (found) showWritten(found.head, found.captions);
}

function follow(id, name, words) {
  const link = document.querySelector(id);
  if (link) key(name, words, () => link.click());
}

drawAlike();
const words = document.querySelector("#words");
if (words) {
  showWords(words, pair);
  document.querySelector("#words-by").addEventListener("change", () => showWords(words, pair));
}
for (const {head: name, captions} of page.written) showWritten(name, captions);
follow("#swap", "x", "swap the two clips");
follow("#next", "j", page.listed ? "next pair of the list" : "find pairs");
follow("#previous", "k", "previous pair of the list");
if (head) {
  const question = document.querySelector("#question");
  answers.forEach(addEntry);
  document.querySelector("#forget").addEventListener("click", forget);
  document.querySelector("#compute").addEventListener("click", compute);
  document.querySelector("#write").addEventListener("click", write);
  document.querySelector("#ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (question.value.trim()) ask(question.value.trim());
  });
  for (const button of document.querySelectorAll("[data-preset]"))
    button.addEventListener("click", () => ask(button.title, button.dataset.preset));
  head.addEventListener("change", () => desk.run("/pair/load", {head: head.value}));
  key("h", "compute how alike they are", compute);
  key("d", "write the differences", write);
  key("q", "write a question", () => question.focus());
  key("z", "clear the answers", forget);
}
