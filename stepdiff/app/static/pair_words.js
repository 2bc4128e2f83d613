// The words that two clips give evidence for, and the moments of words.
//
// A word that the chosen head of words knows is a link, wherever the page shows it: in the lists, in captions, in answers.
// It leads to the frame with the most evidence for it in each clip that has some; a clip without stays in step with the
// other. Its address opens the page there.

import {request, send} from "/static/annotate_send.js";
import {announce, key, waiting} from "/static/keys.js";
import {visit} from "/static/pair_address.js";

const {reference, candidate} = JSON.parse(document.querySelector("#pair-data").textContent);
const pair = {reference: reference.clip.key, candidate: candidate.clip.key};
const lengths = [reference, candidate].map(({clip}) => clip.end - clip.start);
const {player} = document.querySelector("[data-player]");
const choice = document.querySelector("#words-by");
const terms = new Map(); // word -> [what Video 1 gives for it, Video 2], with `times` of the frames
const SVG = "http://www.w3.org/2000/svg";

/** Return an element with text or children. */
export function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const signed = (value, digits = 2) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);

/** Return seconds as 0:02.30. */
export function clock(seconds, digits = 2) {
  const parts = Math.round(seconds * 10 ** digits);
  const minute = 60 * 10 ** digits;
  return `${Math.floor(parts / minute)}:${((parts % minute) / 10 ** digits).toFixed(digits).padStart(3 + digits, "0")}`;
}

/** Return a value of each frame of a clip, on its time: upwards, such as evidence for a word, or downwards. */
export function bars(values, times, length) {
  const svg = document.createElementNS(SVG, "svg");
  const most = Math.max(...values.map(Math.abs), 1e-9);
  const top = Math.max(...values, 0) / most, bottom = Math.min(...values, 0) / most;
  svg.setAttribute("viewBox", `0 ${-top} 1 ${top - bottom || 1}`);
  svg.setAttribute("preserveAspectRatio", "none");
  times.forEach((time, frame) => {
    const first = frame ? (times[frame - 1] + time) / 2 : 0;
    const last = frame + 1 < times.length ? (time + times[frame + 1]) / 2 : length;
    const value = values[frame] / most;
    const rect = document.createElementNS(SVG, "rect");
    const shape = {x: first / length, width: (last - first) / length, y: Math.min(-value, 0), height: Math.abs(value), class: value < 0 ? "against" : "for"};
    for (const [name, part] of Object.entries(shape)) rect.setAttribute(name, part);
    svg.append(rect);
  });
  return svg;
}

/** Return the numbers, 0 or 1, of the clips that give evidence for a word. */
const shownBy = (term) => [0, 1].filter((number) => Math.max(...terms.get(term)[number].moments) > 0);

/** Return the words that say when each clip gives most evidence for a word. */
function inWords(term) {
  const shown = shownBy(term);
  const at = terms.get(term).map(({seconds}, number) =>
    shown.includes(number) ? `${clock(seconds, 1)} in video ${number + 1}` : `no evidence in video ${number + 1}`);
  return `${term}: ${at.join(", ")}`;
}

/** Return the address of the page at the moments of a word; a clip without evidence stays in step, as where it is pressed. */
function address(term) {
  const [number, other] = shownBy(term), seconds = terms.get(term).map((each) => each.seconds);
  let time = Math.min(...seconds), offsets = seconds.map((each) => each - time);
  if (other === undefined) {
    offsets = seconds[number] < player.offsets[number] ? [0, 0] : player.offsets;
    time = number === undefined ? 0 : seconds[number] - offsets[number];
  }
  const rounded = (value) => Math.round(1000 * value) / 1000;
  return `/pair?${new URLSearchParams({...pair, time: rounded(time), offset: offsets.map(rounded).join()})}`;
}

/** Remove the marks of a word; return whether there were some. */
function clear() {
  const links = document.querySelectorAll(".term[aria-current]"), marks = document.querySelectorAll(".tracks .moment");
  for (const link of links) link.removeAttribute("aria-current");
  for (const mark of marks) mark.remove();
  return links.length + marks.length > 0;
}

/** Show the moments of a word, mark them on the filmstrips, and say when they are; undo the marks of a word that has them. */
function show(link) {
  const {term} = link.dataset, shown = shownBy(term), seconds = terms.get(term).map((each) => each.seconds);
  const again = link.hasAttribute("aria-current");
  clear();
  if (again) return announce("the marks are gone");
  if (shown.length) visit(() => (shown.length === 2 ? player.seekEach(seconds) : player.show(shown[0], seconds[shown[0]])));
  link.setAttribute("aria-current", "true");
  terms.get(term).forEach(({seconds, moments, times}, number) => {
    if (!shown.includes(number)) return;
    const mark = made("span", {class: "flag small"}, `${term} ${clock(seconds, 1)}`);
    const moment = made("div", {class: "moment", "aria-hidden": "true"}, bars(moments, times, lengths[number]), mark);
    mark.style.left = `${(100 * seconds) / lengths[number]}%`;
    mark.classList.toggle("late", seconds > lengths[number] / 2);
    document.querySelector(`.tracks > [data-strip="${number}"]`)?.append(moment);
  });
  document.querySelector(".screens").scrollIntoView({block: "nearest"});
  announce(`${inWords(term)}; press it again to remove the marks`);
}

player.root.addEventListener("change", () => { // other offsets
  for (const link of document.querySelectorAll("a.term")) link.href = address(link.dataset.term);
});
for (const name of ["escape", "0"]) key(name, "remove the marks of a word", clear);

document.addEventListener("click", (event) => {
  const link = event.target.closest("a.term");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return; // opens another tab or window
  event.preventDefault();
  show(link);
});

/** Return where a place in the text of an element is: a text node and a place in it. */
function point(element, place, isEnd) {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(), rest = place; node; rest -= node.data.length, node = walker.nextNode())
    if (rest < node.data.length || (isEnd && rest === node.data.length)) return [node, rest];
  return [element, element.childNodes.length];
}

/** Make the words of some elements links to their moments, if the chosen head of words knows them. */
export async function link(...elements) {
  const said = elements.filter((element) => element.textContent.trim() && !element.querySelector(".term"));
  const head = choice?.value;
  if (!head || !said.length) return;
  const {status, body} = await send("/pair/moments", {...pair, head, texts: said.map((element) => element.textContent)});
  if (status !== 200 || body.problem || choice.value !== head) return; // the list of words says why
  const [first, second] = body.clips.map(({times, words}) => new Map(words.map((word) => [word.term, {...word, times}])));
  for (const [term, word] of first) if (word.seconds !== null && second.get(term).seconds !== null) terms.set(term, [word, second.get(term)]);
  said.forEach((element, number) => {
    const pieces = body.texts[number];
    let end = element.textContent.length;
    if (element.querySelector(".term") || element.textContent !== pieces.map(({text}) => text).join("")) return;
    for (const {text, term} of pieces.reverse()) { // the last first: places before it stay
      const range = document.createRange();
      if (term && terms.has(term)) {
        range.setStart(...point(element, end - text.length));
        range.setEnd(...point(element, end, true));
        const word = made("a", {class: "term", href: address(term), title: inWords(term), "data-term": term}, range.extractContents());
        range.insertNode(word);
      }
      end -= text.length;
    }
  });
}

/** Return a word of a list. */
function word({term, evidence, other}, number) {
  return made("span", {class: "word", title: `log-odds ${signed(evidence, 1)} here, ${signed(other, 1)} in Video ${3 - number}`}, term);
}

/** Return the lists of the words of both clips, with bars of the difference of their log-odds. */
function lists(clips) {
  const most = Math.max(...clips.flatMap(({words}) => words.map((each) => each.evidence - each.other)));
  return clips.map((clip, index) => {
    const rows = clip.words.map((each) => {
      const difference = each.evidence - each.other;
      const fill = made("span");
      fill.style.width = `${(100 * difference) / most}%`;
      return made("li", {}, word(each, index + 1),
        made("span", {class: "length", "aria-hidden": "true"}, fill),
        made("span", {class: "number quiet"}, each.seconds === null ? "" : clock(each.seconds, 1)));
    });
    const list = rows.length ? made("ol", {}, ...rows) : made("p", {class: "quiet"}, "No word has clear evidence.");
    return made("section", {class: `words ${index ? "two" : "one"}`, "aria-label": `Words of Video ${index + 1}`}, made("h3", {}, `Video ${index + 1}`), list);
  });
}

/** Return what an answer rests on: the words that its head has read. */
export function basis(clips) {
  const lines = clips.map((clip, index) => {
    const line = made("div", {class: `words line ${index ? "two" : "one"}`}, made("b", {}, `Video ${index + 1}`));
    line.append(...clip.words.map((each) => word(each, index + 1)), ...(clip.words.length ? [] : ["nothing clear"]));
    return line;
  });
  return [made("p", {class: "small"}, "The answer rests on these words:"), ...lines];
}

/** Fill the part of the page that shows the words of a pair, by the chosen head, and link all words by it. */
async function showWords(place) {
  const end = waiting(place, `Reading the features of both clips, and the evidence of ${choice.value}`);
  place.setAttribute("aria-busy", "true");
  for (const old of document.querySelectorAll("a.term")) old.replaceWith(...old.childNodes);
  terms.clear();
  const head = choice.value;
  let problem;
  try {
    const response = await request(`/pair/words?${new URLSearchParams({...pair, head})}`, {headers: {Accept: "application/json"}});
    const data = await response.json();
    if (choice.value !== head) return; // another one was chosen meanwhile
    problem = data.problem ?? data.error;
    if (!problem) place.replaceChildren(...lists(data.clips));
    if (!problem) document.dispatchEvent(new CustomEvent("alike", {detail: data}));
  } catch (error) {
    problem = error.message;
  } finally {
    end();
  }
  if (problem) place.replaceChildren(made("p", {class: "problem"}, problem));
  place.removeAttribute("aria-busy");
  if (!problem) link(...document.querySelectorAll(".word, .said, .answer:not([aria-busy] *)"));
}

if (choice) {
  const place = document.querySelector("#words");
  showWords(place);
  choice.addEventListener("change", () => showWords(place));
}
