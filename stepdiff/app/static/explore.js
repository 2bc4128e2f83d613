// The explorer: map, filter, search, pins and lists. The address is the state; each change goes through `change`.

import {request} from "/static/annotate_send.js";
import {announce, key} from "/static/keys.js";
import {paints, palette} from "/static/explore_colours.js";
import {Lists, element, picture, strip} from "/static/explore_lists.js";
import {PointMap} from "/static/explore_map.js";
import {choiceOf, readState, rounded, writeState} from "/static/explore_state.js";

const PAGE = 60;
const HOVER = 90;  // milliseconds on a point before its pictures are asked for
const $ = (name) => document.getElementById(name);
const {command, pictures, views, words, knows} = JSON.parse($("explore-data").textContent);

let state = {};
let about = null;  // of the points: version, count, columns, legend
let codes = null, rows = null;
let masks = {passing: null, selected: null};
let chosen = {passing: 0, selected: 0, hits: null};
let pinned = [];  // clips
let asked = 0;  // number of the newest request for chosen clips
const known = new Map();  // row -> clip

const map = new PointMap($("map"), {hovered, clicked: pin, moved, lassoed: (corners) => change({lasso: written(corners), near: [], lassoed: false, text: ""})});
const lists = new Lists($("grid"), $("table"), pictures, {
  clicked: pinClip,
  hovered: (clip) => { map.mark({hover: clip ? clip.place : -1}); lists.mark(state.pins, clip?.row); },
  sorted: (sort) => change({sort}),
});

/** Ask the server; while a map is computed, show how far it is and ask again. */
async function ask(address) {
  for (;;) {
    const response = await request(address, {headers: {Accept: "application/json"}});
    if (response.status === 202) {
      progress((await response.json()).error);
      await new Promise((done) => setTimeout(done, 300));
      continue;
    }
    if (!response.ok) {
      const {error, field} = await response.json();
      throw Object.assign(new Error(error ?? response.statusText), {field});
    }
    return response;
  }
}

/** Return the JSON object at the start of a binary response, and what follows it. */
async function binary(response) {
  const data = await response.arrayBuffer(), size = new DataView(data).getUint32(0, true);
  return [JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size))), data, 4 + size];
}

function progress(words) {
  $("progress").textContent = words ?? "";
  $("progress").hidden = !words;
}

/** Change the state, the address and what depends on them. */
async function change(changes, {push = true} = {}) {
  const before = state;
  state = {...before, ...changes};
  if (!("offset" in changes) && !("pins" in changes) && !("at" in changes)) state.offset = 0;
  writeState(state, {push});
  await show(before);
}

async function show(before) {
  const differs = (...names) => names.some((name) => String(before[name]) !== String(state[name]));
  fillControls();
  try {
    if (differs("view", "projection", "colour")) await loadPoints(differs("view", "projection"));
    if (differs("pins", "view", "projection")) await loadPins();
    if (differs("view", "projection", "colour", "where", "words", "lasso", "near", "lassoed", "text", "by")) await choose();
    else if (differs("sort", "offset")) await list();
  } catch (error) {
    refused(error);
  }
}

/** Show why a request is refused, mark its field, and clear what would have been chosen. */
function refused(error) {
  progress();
  why(error.message, error);
  if (!about) return;
  chosen = {passing: 0, selected: null, hits: null};
  masks = {passing: new Uint8Array((about.count + 7) >> 3), selected: null};
  map.select(masks.passing, masks.selected, palette());
  mark();
  lists.show([], about.columns.map((column) => column.name), state.sort, state.pins);
  summary({total: 0, offset: 0, clips: []});
  Object.assign($("summary"), {textContent: "no clips", title: ""});
}

async function loadPoints(moves) {
  const parameters = new URLSearchParams({view: state.view, projection: state.projection});
  if (state.colour !== null) parameters.set("colour", state.colour);
  progress("Loading the map");
  const [head, data, at] = await binary(await ask(`/explore/points?${parameters}`));
  const floats = (part) => new Float32Array(data, at + 4 * part * head.count, head.count);
  about = head;
  codes = new Int32Array(data, at + 8 * head.count, head.count);
  rows = new Int32Array(data, at + 12 * head.count, head.count);
  known.clear();
  map.load(floats(0), floats(1), null);
  masks = {passing: null, selected: null};
  fillColumns();
  paintPoints();
  if (moves || !map.looked) state.at ? map.look(state.at) : map.fit();
  map.looked = true;
  progress();
  note();
}

function paintPoints() {
  const colours = palette(), of = paints(about.legend, colours), painted = new Uint32Array(codes.length);
  for (let n = 0; n < codes.length; n++) painted[n] = of[codes[n] + 1];
  map.paints = painted;
  map.select(masks.passing, masks.selected, colours);
  legend(colours);
}

async function choose() {
  const number = ++asked;
  let head, data, at;
  try {
    [head, data, at] = await binary(await ask(`/explore/chosen?${choiceOf(state)}`));
  } catch (error) {
    if (number === asked) refused(error);
    return;
  }
  if (number !== asked) return;
  if (head.version !== about.version) {  // the store has changed
    await loadPoints(true);
    return choose();
  }
  chosen = head;
  const size = (about.count + 7) >> 3;
  masks = {
    passing: head.passing === about.count ? null : new Uint8Array(data, at, size),
    selected: head.selected !== null ? new Uint8Array(data, at + size, size) : null,
  };
  map.select(masks.passing, masks.selected, palette());
  mark();
  why(head.why ?? "");
  await list();
}

async function list() {
  const parameters = choiceOf(state);
  parameters.set("offset", state.offset);
  parameters.set("limit", PAGE);
  if (state.sort) parameters.set("sort", state.sort);
  const number = asked, found = await (await ask(`/explore/clips?${parameters}`)).json();
  if (number !== asked) return;
  for (const clip of found.clips) known.set(clip.row, clip);
  lists.show(found.clips, about.columns.map((column) => column.name), state.sort, state.pins);
  summary(found);
}

function summary(found) {
  const many = (count) => count.toLocaleString("en"), clips = (count) => `${many(count)} ${count === 1 ? "clip" : "clips"}`;
  const {hits, selected, passing} = chosen;
  let words = passing === about.count ? clips(passing) : `${many(passing)} of ${clips(about.count)} pass the filter`;
  if (hits) words = `${many(hits.count)} nearest to ${hits.title}`;
  else if (state.lasso) words = `${clips(selected)} in the lasso`;
  Object.assign($("summary"), {textContent: words, title: words});
  $("clear").hidden = !(hits || state.lasso || state.where || state.words);
  $("page").textContent = found.total ? `${many(found.offset + 1)}–${many(found.offset + found.clips.length)}` : "0";
  $("before").disabled = found.offset === 0;
  $("after").disabled = found.offset + found.clips.length >= found.total;
}

function why(words, error) {
  $("why").textContent = words;
  $("why").classList.toggle("error", Boolean(error));
  for (const name of ["where", "words", "text"]) $(name).setAttribute("aria-invalid", name === error?.field);
}

function note() {
  const {count, total, shares} = about, many = (number) => number.toLocaleString("en");
  const axes = shares[0] ? `The axes show ${shares.map((share) => (100 * share).toFixed(0)).join(" % and ")} % of the variance.` : "Only neighbourhoods have a meaning, not the axes.";
  $("note").textContent = `${count < total ? `A random sample of ${many(count)} of ${many(total)} clips` : `${many(count)} clips`}. ${axes}`;
}

/** Let the controls show the state. */
function fillControls() {
  for (const name of ["view", "projection", "where", "words", "text"]) $(name).value = state[name];
  $("by").value = state.by || state.view;
  for (const name of ["first", "second"]) Object.assign($(name), {ariaPressed: Boolean(state[name]), title: state[name] ? `Chosen by ${decodeURIComponent(state[name])}` : "The clips of the lasso, the filter or the search"});
  $("same").disabled = !(pinned[1] || (state.first && state.second));
  const view = views.find((one) => one.name === ($("by").value || state.view));
  $("text").disabled = !view?.texts && !words;
  const code = element("code", {textContent: `${command} --encoder hf:google/siglip2-base-patch16-224`});
  const lack = words ? `A text is searched by the words that the head ${words} knows, which learned from ${knows}. A view that reads any text: ` : "No view of these reads texts. One that does: ";
  $("texts").replaceChildren(...(view?.texts ? [] : [lack, code]));
  if (!$("by").options.length) $("by").replaceChildren(element("option", {value: "", textContent: "no view has an embedding"}));
}

function fillColumns() {
  const names = ["", ...about.columns.map((column) => column.name)];
  $("colour").replaceChildren(...names.map((name) => element("option", {value: name, textContent: name || "one colour"})));
  $("colour").value = about.legend.column ?? "";
}

function legend(colours) {
  const {column, kind, entries, others, missing, low, high} = about.legend, box = $("legend");
  const swatch = (colour) => { const made = element("i"); made.style.background = colour; return made; };
  const line = (colour, label, count, action) => {
    const made = element(action ? "button" : "span", {title: action ? `Filter: ${action}` : ""}, swatch(colour), element("span", {textContent: label}), element("b", {textContent: count.toLocaleString("en")}));
    if (action) Object.assign(made, {type: "button", onclick: () => change({where: added(action), lasso: "", near: [], lassoed: false, text: ""})});
    return made;
  };
  box.hidden = kind === null;
  map.inset = {left: 0, top: 0};
  if (kind === null) return;
  const lines = entries.map((entry, n) => line(colours.categories[n], entry.label, entry.count, entry.where));
  if (kind === "numbers" && low !== null) {
    const bar = element("i", {className: "explore-ramp"}), number = (value) => Number(value.toPrecision(4)).toLocaleString("en");
    bar.style.background = `linear-gradient(90deg, ${colours.ramp.filter((_, n) => n % 51 === 0).join(", ")})`;
    lines.push(element("span", {}, element("span", {textContent: number(low)}), bar, element("span", {textContent: number(high)})));
  }
  if (others) lines.push(line(colours.others, "other values", others));
  if (missing) lines.push(line(colours.missing, "no value", missing));
  box.replaceChildren(element("h2", {textContent: column}), ...lines);
  const {clientWidth, clientHeight} = map.canvas;
  if (box.offsetWidth < 0.4 * clientWidth) map.inset.left = box.offsetWidth;
  else if (box.offsetHeight < 0.4 * clientHeight) map.inset.top = box.offsetHeight;
}

function added(condition) {
  if (!state.where.trim() || state.where.includes(condition)) return condition;
  return `${/\bor\b/i.test(state.where) ? `(${state.where})` : state.where} AND ${condition}`;
}

async function clipAt(parameter, value) {
  return (await ask(`/explore/clip?${new URLSearchParams({view: state.view, projection: state.projection, [parameter]: value})}`)).json();
}

function hovered(n) {
  if (n === map.marked.hover) return;
  map.mark({hover: n});
  clearTimeout(hovered.timer);
  if (n < 0) { $("hover").hidden = true; return lists.mark(state.pins); }
  hovered.timer = setTimeout(async () => {
    const row = rows[n];
    if (!known.has(row)) known.set(row, await clipAt("row", row));
    if (map.marked.hover !== n) return;
    const clip = known.get(row);
    fillFigure($("hover"), clip, 4);
    $("hover").classList.toggle("left", map.place(n)[0] > map.canvas.clientWidth / 2);
    $("hover").hidden = false;
    lists.mark(state.pins, row);
  }, HOVER);
}

function fillFigure(figure, clip, frames) {
  figure.replaceChildren(picture(strip(clip, pictures, frames, 90), "no pictures"), element("figcaption", {}, element("code", {textContent: clip.file_times, title: clip.key}), element("span", {textContent: clip.step ?? ""})));
}

async function pin(n) {
  if (n < 0) return;
  if (!known.has(rows[n])) known.set(rows[n], await clipAt("row", rows[n]));
  pinClip(known.get(rows[n]));
}

/** Pin a clip: the first is Video 1, the next Video 2; a pinned one is unpinned. */
function pinClip(clip) {
  known.set(clip.row, clip);
  const pins = state.pins.includes(clip.key) ? state.pins.filter((other) => other !== clip.key) : [...state.pins.slice(0, 1), clip.key];
  change({pins});
}

async function loadPins() {
  const by = new Map([...known.values(), ...pinned].map((clip) => [clip.key, clip]));
  pinned = [];
  for (const name of state.pins) {
    try {
      pinned.push(by.get(name) ?? (await clipAt("key", name)));
    } catch (error) {
      announce(error.message);
    }
  }
  document.querySelectorAll(".pin").forEach((slot, n) => {
    const clip = pinned[n], words = n ? "Video 2: click a second one" : "Video 1: click a clip";
    if (!clip) return slot.replaceChildren(element("p", {className: "quiet", textContent: words}));
    const figure = element("figure");
    fillFigure(figure, clip, 4);
    slot.replaceChildren(figure);
  });
  const [first, second] = pinned, link = $("compare");
  link.setAttribute("aria-disabled", !second);
  if (second) link.href = `/pair?${new URLSearchParams({reference: first.key, candidate: second.key})}`;
  else link.removeAttribute("href");
  $("unpin").disabled = !first;
  $("same").disabled = !(second || (state.first && state.second));
  mark();
}

function mark() {
  map.mark({pins: pinned.map((clip) => clip.place), lasso: pairs(state.lasso)});
  lists.mark(state.pins);
  $("near").disabled = !(pinned.length || (state.lasso && chosen.selected)) || !$("by").value;
}

function pairs(text) {
  const numbers = text.split(",").map(Number);
  return Array.from({length: numbers.length >> 1}, (_, n) => [numbers[2 * n], numbers[2 * n + 1]]);
}

/** Return corners as the address has them: to a tenth of a pixel. */
function written(corners) {
  const digits = Math.min(Math.max(Math.ceil(Math.log10(map.scale)) + 1, 0), 12);
  return corners.flat().map((value) => Number(value.toFixed(digits))).join(",");
}

function moved() {
  clearTimeout(moved.timer);
  moved.timer = setTimeout(() => {
    state.at = map.whole ? null : rounded(map.view);
    writeState(state, {push: false});
  }, 250);
}

function neighbours() {
  if ($("near").disabled) return;
  const by = $("by").value;
  change(state.lasso && !pinned.length ? {by, lassoed: true, near: [], text: "", sort: ""} : {by, near: state.pins, lassoed: false, text: "", lasso: "", sort: ""});
}

/** Keep the chosen clips as a group, or give the kept ones up. */
function keepGroup(name) {
  if (!state[name] && chosen.selected === null && chosen.passing === about?.count) return announce("Choose the clips of a group by the lasso, the filter or a search");
  change({[name]: state[name] ? "" : choiceOf(state).toString()});
}

/** Open the pairs that differ as the two groups do, or without groups as the two pinned clips. */
async function same() {
  const address = new URLSearchParams();
  try {
    const groups = state.first && state.second ? [state.first, state.second] : null;
    for (const [n, name] of ["reference", "candidate"].entries()) {
      const keys = groups ? await (await ask(`/explore/group?${groups[n]}`)).json() : [pinned[n].key];
      for (const key of keys) address.append(name, key);
    }
    location.assign(`/pair/elsewhere?${address}`);
  } catch (error) {
    refused(error);
  }
}

/** Clear the innermost choice: neighbours, then the lasso, then the filter. */
function clear() {
  if (state.near.length || state.lassoed || state.text) change({near: [], lassoed: false, text: "", sort: ""});
  else if (state.lasso) change({lasso: ""});
  else change({where: "", words: ""});
}

function lassoing(on) {
  map.lassoing = on;
  $("lasso").setAttribute("aria-pressed", on);
}

function bind() {
  for (const name of ["view", "projection", "colour"]) {
    $(name).addEventListener("change", () => {
      const moves = name === "colour" ? {} : {at: null, lasso: "", lassoed: false, offset: 0};
      change({[name]: $(name).value, ...moves, ...(name === "view" ? {near: [], text: "", by: ""} : {})});
    });
  }
  $("filter").addEventListener("submit", (event) => {
    event.preventDefault();
    change({where: $("where").value.trim(), words: $("words").value.trim()});
  });
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    change({text: $("text").value.trim(), by: $("by").value, near: [], lassoed: false, lasso: "", sort: ""});
  });
  $("by").addEventListener("change", () => (state.near.length || state.lassoed || state.text ? change({by: $("by").value}) : fillControls()));
  const does = {
    near: neighbours, clear, lasso: () => lassoing(!map.lassoing), unpin: () => change({pins: []}), same,
    first: () => keepGroup("first"), second: () => keepGroup("second"),
    in: () => map.zoom(1.5), out: () => map.zoom(1 / 1.5), fit: () => { map.fit(); moved(); },
    before: () => change({offset: Math.max(0, state.offset - PAGE)}), after: () => change({offset: state.offset + PAGE}),
  };
  for (const [name, action] of Object.entries(does)) $(name).addEventListener("click", action);
  const press = (name) => () => $(name).disabled || $(name).click();
  key("/", "go to the filter", () => $("where").focus());
  key("w", "go to the words", () => $("words").focus());
  key("t", "go to the text search", () => $("text").focus());
  key("a", "lasso (or shift and drag)", press("lasso"));
  key("+", "zoom in", press("in"));
  key("-", "zoom out", press("out"));
  key("0", "show the whole map", press("fit"));
  key("left", "move the map", () => map.pan(-0.15, 0));
  key("right", "move the map", () => map.pan(0.15, 0));
  key("up", "move the map", () => map.pan(0, 0.15));
  key("down", "move the map", () => map.pan(0, -0.15));
  key("n", "neighbours of the pinned clips, or of the lasso", neighbours);
  key("c", "compare the two pinned clips", () => $("compare").href && $("compare").click());
  key("u", "unpin", press("unpin"));
  key("1", "keep the chosen clips as group 1", press("first"));
  key("2", "keep the chosen clips as group 2", press("second"));
  key("d", "pairs with the same difference", press("same"));
  key("x", "clear neighbours, lasso, then filter", clear);
  key("[", "page before", press("before"));
  key("]", "next page", press("after"));
  window.addEventListener("popstate", () => {
    const before = state;
    state = {...readState()};
    if (!state.view) state.view = views[0].name;
    if (about) state.at ? map.look(state.at) : map.fit();
    show(before);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => about && paintPoints());
}

bind();
const first = readState();
first.view ||= views[0].name; // the server refuses an unknown one
window.explorer = {map, get state() { return state; }, get about() { return about; }};
change(first, {push: false});
