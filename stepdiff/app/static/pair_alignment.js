// The alignment of a pair: lines between the moments that go together, what one clip lacks, and how different they are.

import {request} from "/static/annotate_send.js";
import {waiting} from "/static/keys.js";
import {bars, made} from "/static/pair_words.js";

const {player} = document.querySelector("[data-player]");
const {reference, candidate} = JSON.parse(document.querySelector("#pair-data").textContent);
const lengths = [reference, candidate].map(({clip}) => clip.end - clip.start);
const head = document.querySelector("#head");
const [ribbon, costs, about] = ["ribbon", "costs", "aligned"].map((name) => document.querySelector(`[data-${name}]`));
const SVG = "http://www.w3.org/2000/svg";

/** Return an element of a drawing. */
export function shape(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const percent = (seconds, number) => `${(100 * seconds) / lengths[number]}%`;

/** Return the lines of a path, and the hatched parts of the clip at the top and of that at the bottom. */
function drawn({path, only_first, only_second}) {
  const hatches = ["one", "two"].map((side) =>
    shape("pattern", {id: `hatch-${side}`, class: side, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)"},
      shape("line", {x1: 0, x2: 0, y1: 0, y2: 6})));
  const lines = path.map(({first, second}) => shape("line", {x1: percent(first, 0), y1: 0, x2: percent(second, 1), y2: "100%"}));
  const parts = [only_first, only_second].flatMap((spans, number) =>
    spans.map(([start, end]) =>
      shape("rect", {x: percent(start, number), width: percent(end - start, number), y: number ? "60%" : 0, height: "40%", fill: `url(#hatch-${number ? "two" : "one"})`})));
  return shape("svg", {"aria-hidden": "true"}, shape("defs", {}, ...hatches), ...lines, ...parts);
}

function words({only_first, only_second}) {
  const only = [only_first, only_second].flatMap((spans, number) =>
    spans.map(([start, end]) => `only Video ${number + 1} from ${start.toFixed(1)} to ${end.toFixed(1)} s`));
  return `Alignment: ${only.join(", ") || "each clip has something similar at all times"}`;
}

async function showAlignment() {
  const address = new URLSearchParams({reference: reference.clip.key, candidate: candidate.clip.key, head: head?.value ?? ""});
  const end = waiting(about, "Aligning the frames of both clips");
  let alignment;
  try {
    alignment = await (await request(`/pair/alignment?${address}`, {headers: {Accept: "application/json"}})).json();
  } catch (error) {
    alignment = {problem: error.message};
  } finally {
    end();
  }
  if (address.get("head") !== (head?.value ?? "")) return; // another one was chosen meanwhile
  for (const old of costs.querySelectorAll("[data-strip]")) player.leave(old);
  const problem = alignment.problem || alignment.error;
  player.align(problem ? null : alignment.warp);
  ribbon.replaceChildren(...(problem ? [] : [drawn(alignment)]));
  ribbon.setAttribute("aria-label", problem ? "No alignment" : words(alignment));
  about.replaceChildren(made("b", {}, problem || alignment.warning));
  ribbon.hidden = costs.hidden = Boolean(problem);
  if (problem) return;
  const most = Math.max(...alignment.costs).toFixed(2);
  about.append(` By frames of ${alignment.view}: cosine distance up to ${most}.`);
  const drawing = bars(alignment.costs, alignment.times, lengths[0]);
  const strip = made("div", {class: "filmstrip moments", "data-strip": 0, "aria-hidden": "true"}, drawing, made("span", {class: "marker"}));
  costs.append(strip);
  player.watch(strip);
}

showAlignment();
head?.addEventListener("change", showAlignment);
