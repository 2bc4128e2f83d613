// The page of a pair: similarity bars, questions, captions that are written on request.

import {key} from "/static/keys.js";
import {Desk} from "/static/pair_events.js";
import {basis, link, made, signed} from "/static/pair_words.js";

const page = JSON.parse(document.querySelector("#pair-data").textContent);
const pair = {reference: page.reference.clip.key, candidate: page.candidate.clip.key};
const head = document.querySelector("#head");
const desk = new Desk();
const MOST_ANSWERS = 20; // that are kept of a pair
const ANSWERS = `answers ${JSON.stringify(pair)}`;
const answers = JSON.parse(sessionStorage.getItem(ANSWERS) ?? "[]"); // of this tab, oldest first
const SIGNS = {alike: "=", different: "≠", unsure: "?"};
const SVG = "http://www.w3.org/2000/svg";

/** Return a name in parts between which a line may end. */
const broken = (name) => name.match(/[^_/-]{1,14}[_/-]*|[_/-]+/g).flatMap((part) => [part, made("wbr")]);

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

/** Return a verdict, with a sign. */
const verdict = (word) => made("b", {class: `verdict ${word}`}, `${SIGNS[word]} ${word}`);

/** Show the verdicts of all heads, and their bars, category by category. */
function drawAlike() {
  if (!page.similar.length && !page.heads.length) return; // the section says what to do
  const extra = page.similar.flatMap((each) => each.values.map((value) => value.category));
  const categories = [...new Set([...page.categories, ...extra])];
  const rows = categories.map((category) => {
    const known = page.similar.map(({head: name, values}) => [name, values.find((value) => value.category === category)?.verdict]).filter(([, word]) => word);
    const said = known.map(([name, word]) => made("div", {}, verdict(word), " ", made("span", {class: "small quiet"}, ...broken(name))));
    const truth = category in page.truth ? [made("div", {class: "small quiet"}, `true score ${page.truth[category]} of 5`)] : [];
    return made("tr", {}, made("th", {scope: "row"}, category), made("td", {}, ...(known.length ? said : ["–"]), ...truth));
  });
  document.querySelector("#alike").replaceChildren(made("table", {"aria-labelledby": "alike-title"}, made("tbody", {}, ...rows)));
  if (!page.similar.length) return;
  document.querySelector("#alike-state").replaceChildren();
  drawBars(categories);
}

function drawBars(categories) {
  const place = document.querySelector("#bars");
  place.parentElement.hidden = document.querySelector("#numbers").hidden = false;
  const all = page.similar.flatMap((each) => each.values.map((value) => Math.abs(value.log_odds)));
  const most = Math.max(1, Math.ceil(Math.max(0, ...all)));
  const bodies = categories.map((category) => {
    const rows = page.similar.flatMap(({head: name, values}) =>
      values.filter((value) => value.category === category).map((value) => made("tr", {},
        made("th", {scope: "row", class: "small quiet"}, ...broken(name)),
        made("td", {class: "pair-bars"}, bar(value.log_odds, most)),
        made("td", {class: "pair-odds"}, signed(value.log_odds)))));
    const title = made("th", {scope: "rowgroup", colspan: 3}, category, ...(rows.length ? [] : [" –"]));
    return made("tbody", {}, made("tr", {}, title), ...rows);
  });
  const scale = made("td", {class: "pair-scale"}, made("span", {}, `−${most}: different`), made("span", {}, "0"), made("span", {}, `alike: +${most}`));
  const foot = made("tfoot", {}, made("tr", {class: "quiet small"}, made("td"), scale, made("td")));
  place.replaceChildren(made("table", {class: "pair-alike", "aria-label": "Log-odds"}, ...bodies, foot));
}

/** Keep log-odds of a head and draw all. */
function keepAlike(name, values) {
  const earlier = page.similar.find((each) => each.head === name)?.values ?? [];
  const rest = earlier.filter((each) => !values.some((value) => value.category === each.category));
  if (values.length) page.similar = [{head: name, values: [...values, ...rest]}, ...page.similar.filter((each) => each.head !== name)];
  drawAlike();
}

async function compute() {
  const place = document.querySelector("#alike-state");
  const failed = (words) => (place.textContent = words);
  const found = await desk.run("/pair/alike", {head: head.value, ...pair}, "reading both clips, category by category",
    {failed, stopped: () => (place.textContent = "stopped")}, [place]);
  if (found) keepAlike(found.head, found.values);
}

/** Add an entry above the earlier ones; return it with its answer and the note below. */
function addEntry({question, answer, declines, note, rests, cut, unread, ended}) {
  const entry = made("article", {"aria-label": question}, made("p", {class: "asked"}, question));
  entry.toggleAttribute("data-ended", Boolean(ended));
  const words = made("p", {class: "answer"}, answer);
  const below = made("p", {class: "small quiet note"});
  entry.append(words, below);
  fillNote(below, {note, declines, rests, cut, unread});
  document.querySelector("#answers").prepend(entry);
  document.querySelector("#forget").hidden = false;
  return [entry, words, below];
}

function fillNote(below, {note, declines = "", rests = [], cut = 0, unread = []}) {
  const quoted = unread.map((word) => `“${word}”`).join(", ");
  const end = cut ? [made("b", {class: "verdict cut"}, "cut off"), ` at the longest answer, ${cut} tokens. `] : [];
  const guess = unread.length ? [verdict("unsure"), ` the model knows nothing about ${quoted}: the answer may not be about it. `] : [];
  below.replaceChildren(...end, ...guess, ...(declines ? [verdict("alike"), `: ${declines}. `] : []), note);
  if (rests.length) below.after(...basis(rests));
}

/** Ask a question; its answer is written into a new entry, which this tab keeps over a reload. */
async function ask(question, preset) {
  const model = head.value;
  const kept = {question, answer: "", declines: "", note: "not finished"};
  const [entry, words, below] = addEntry(kept);
  const end = (note, more = {}) => {
    entry.removeAttribute("aria-busy");
    fillNote(below, {note, ...more});
    Object.assign(kept, {answer: words.textContent, note, ...more});
    save();
    link(words, ...entry.querySelectorAll(".word"));
  };
  entry.setAttribute("aria-busy", "true");
  answers.push(kept);
  answers.splice(0, answers.length - MOST_ANSWERS);
  save();
  const body = {head: model, ...pair, ...(preset ? {preset} : {question})};
  const found = await desk.run("/pair/ask", body, "reading both clips and answering", {
    words: ({text}) => {
      if (!words.textContent) entry.scrollIntoView({block: "nearest"}); // later words do not move the page
      words.append(text);
    },
    stopped: () => end("stopped"),
    failed: (words) => end(words),
  }, [below]);
  if (!found) return;
  words.textContent = found.answer;
  kept.ended = true; // by itself: neither stopped nor failed
  entry.toggleAttribute("data-ended", true);
  end(`${model}, first word after ${found.first.toFixed(1)} s, ${found.seconds.toFixed(1)} s in all`,
    {declines: found.declines, rests: found.rests_on, cut: found.cut_at, unread: found.unread});
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

/** Show the last column of the captions, which a model writes. */
function openWritten(name) {
  document.querySelector("#written-by").textContent = name;
  document.querySelector("#captions").hidden = false;
  document.querySelector("#no-captions")?.remove();
  for (const cell of document.querySelectorAll("#captions :is(.written, .by)")) cell.hidden = false;
  for (const cell of document.querySelectorAll("#captions .written")) cell.dataset.by = `written by ${name}`;
  for (const cell of document.querySelectorAll("#captions .references td")) cell.colSpan = page.captions.methods.length + 1;
}

/** Show the captions that a head has written. */
function showWritten(name, captions) {
  openWritten(name);
  for (const {category, caption, declines, cut} of captions) {
    const row = [...document.querySelectorAll("[data-category]")].find((each) => each.dataset.category === category);
    const pieces = caption.pieces.map((piece) => (piece.supported ? made("u", {}, piece.text) : piece.text));
    const note = [
      ...(cut ? [made("p", {class: "small"}, made("b", {class: "verdict"}, "cut off"), " at the longest caption")] : []),
      ...(declines ? [made("p", {class: "small"}, verdict("alike"), ` ${declines}`)] : []),
    ];
    const details = caption.details.map(({words, video, judgement}) =>
      made("li", {}, made("b", {class: `verdict ${judgement}`}, judgement), ` ${words} `, made("span", {class: "quiet"}, `(Video ${video})`)));
    row.querySelector(".written").replaceChildren(made("span", {class: "said"}, ...pieces), ...(details.length ? [made("ul", {class: "details"}, ...details)] : []), ...note);
  }
}

async function write() {
  const name = head.value;
  openWritten(name);
  const cells = [...document.querySelectorAll("td.written")];
  const fill = (text) => cells.forEach((cell) => cell.replaceChildren(made("span", {class: "quiet"}, text)));
  fill("");
  const on = {stopped: () => fill("stopped"), failed: fill};
  const found = await desk.run("/pair/captions", {head: name, ...pair}, "writing the difference of each category", on,
    cells.map((cell) => cell.firstChild));
  if (found) showWritten(found.head, found.captions);
  if (found) link(...document.querySelectorAll(".written .said"));
}

function follow(id, name, words) {
  const link = document.querySelector(id);
  if (link) key(name, words, () => link.click());
}

drawAlike();
document.addEventListener("alike", ({detail}) => keepAlike(detail.head, detail.similar)); // by a head of words
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
  head.addEventListener("change", () => desk.run("/pair/load", {head: head.value}, "loaded"));
  key("h", "compute how alike they are", compute);
  key("d", "write the differences", write);
  key("q", "write a question", () => question.focus());
  key("z", "clear the answers", forget);
}
