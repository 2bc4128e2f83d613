// The words that two clips give evidence for: lists of them, and the moments that carry one.
//
// A press on a word sets the clock to the frame of its clip with the most evidence, and shows the evidence of all frames.

const SVG = "http://www.w3.org/2000/svg";

/** Return an element with text or children. */
export function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const signed = (value, digits = 2) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);

/** Return a value of each frame of a clip, on its time: upwards, such as evidence for a word, or downwards. */
export function strip(moments, {times, length}, number) {
  const svg = document.createElementNS(SVG, "svg");
  const most = Math.max(...moments.map(Math.abs), 1e-9);
  const top = Math.max(...moments, 0) / most, bottom = Math.min(...moments, 0) / most;
  svg.setAttribute("viewBox", `0 ${-top} 1 ${top - bottom || 1}`);
  svg.setAttribute("preserveAspectRatio", "none");
  times.forEach((time, frame) => {
    const first = frame ? (times[frame - 1] + time) / 2 : 0;
    const last = frame + 1 < times.length ? (time + times[frame + 1]) / 2 : length;
    const value = moments[frame] / most;
    const rect = document.createElementNS(SVG, "rect");
    const shape = {x: first / length, width: (last - first) / length, y: Math.min(-value, 0), height: Math.abs(value), class: value < 0 ? "against" : "for"};
    for (const [name, part] of Object.entries(shape)) rect.setAttribute(name, part);
    svg.append(rect);
  });
  return made("div", {class: "filmstrip moments", "data-strip": number - 1, "aria-hidden": "true"}, svg, made("span", {class: "marker"}));
}

/** Return the button of a word; `below` returns the element that its frames are added to. */
function button(word, clip, number, below) {
  const evidence = `log-odds ${signed(word.evidence, 1)} here, ${signed(word.other, 1)} in Video ${3 - number}`;
  if (word.seconds === null) return made("span", {class: "word", title: evidence}, word.term);
  const element = made("button", {type: "button", class: "word", title: `${evidence}; most at ${word.seconds.toFixed(1)} s`}, word.term);
  element.addEventListener("click", () => {
    const {player} = document.querySelector("[data-player]");
    const list = element.closest(".words");
    for (const other of list.querySelectorAll(".word[aria-current]")) other.removeAttribute("aria-current");
    for (const other of list.querySelectorAll(".moments")) player.leave(other);
    element.setAttribute("aria-current", "true");
    const frames = strip(word.moments, clip, number);
    below().append(frames);
    player.watch(frames);
    player.seekIn(number - 1, word.seconds);
  });
  return element;
}

/** Return the lists of the words of both clips, with bars of the difference of their log-odds. */
export function lists(clips) {
  const most = Math.max(...clips.flatMap(({words}) => words.map((word) => word.evidence - word.other)));
  return clips.map((clip, index) => {
    const rows = clip.words.map((word) => {
      const difference = word.evidence - word.other;
      const fill = made("span");
      fill.style.width = `${(100 * difference) / most}%`;
      const at = word.seconds === null ? "" : `${word.seconds.toFixed(1)} s`;
      const row = made("li");
      row.append(
        button(word, clip, index + 1, () => row),
        made("span", {class: "length", "aria-hidden": "true"}, fill),
        made("span", {class: "number"}, signed(difference, 1)),
        made("span", {class: "number quiet"}, at));
      return row;
    });
    const list = rows.length ? made("ol", {}, ...rows) : made("p", {class: "quiet"}, "No word has clear evidence.");
    return made("section", {class: `words ${index ? "two" : "one"}`, "aria-label": `Words of Video ${index + 1}`}, made("h3", {}, `Video ${index + 1}`), list);
  });
}

/** Return what an answer rests on: the words that its head has read. */
export function basis(clips) {
  const lines = clips.map((clip, index) => {
    const line = made("div", {class: `words line ${index ? "two" : "one"}`}, made("b", {}, `Video ${index + 1}`));
    line.append(...clip.words.map((word) => button(word, clip, index + 1, () => line)), ...(clip.words.length ? [] : ["nothing clear"]));
    return line;
  });
  return [made("p", {class: "small"}, "The answer rests on these words:"), ...lines];
}

/** Fill the part of the page that shows the words of a pair, by the chosen head. */
export async function showWords(place, pair) {
  const choice = document.querySelector("#words-by");
  const address = `/pair/words?${new URLSearchParams({...pair, head: choice.value})}`;
  place.setAttribute("aria-busy", "true");
  let problem;
  try {
    const response = await fetch(address, {headers: {Accept: "application/json"}});
    const data = await response.json();
    if (choice.value !== (data.head ?? choice.value)) return; // another one was chosen meanwhile
    problem = data.problem ?? data.error;
    if (!problem) place.replaceChildren(...lists(data.clips));
  } catch (error) {
    problem = error.message;
  }
  if (problem) place.replaceChildren(made("p", {class: "problem"}, problem));
  place.removeAttribute("aria-busy");
}
