// What both pictures of a pair have in common: an overlay, zoom, and a tool that measures lengths and angles.
//
// Overlay lays Video 2 over Video 1, at the moments that the player shows. Zoom and pan move both pictures by the same part
// of their size. Points are in pixels of the video, whatever the zoom: two give a length, a third the angle at the second.

import {announce, key} from "/static/keys.js";
import {shape} from "/static/pair_alignment.js";
import {noteOf} from "/static/pair_notes.js";
import {clock} from "/static/pair_words.js";

const {player} = document.querySelector("[data-player]");
const screens = player.root.querySelector(".screens");
const pictures = [...screens.querySelectorAll(".picture")];
const [overlayButton, opacity, differenceButton, wholeButton, measureButton, noteButton, measuredLine] = ["overlay", "opacity", "difference", "zoom-whole", "measure", "measured-note", "measured"].map(
  (id) => document.querySelector(`#${id}`));
const MOST = 8; // times the size of the picture
const NUDGE = 0.02; // of the height, by which an arrow key moves the cross
const DRAG = 4; // pixels of the screen from which a press is a drag

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const pressed = (button, on) => button.setAttribute("aria-pressed", String(on));

// Overlay

let difference = false;

function overlay(on = !("overlay" in screens.dataset)) {
  if (on) screens.dataset.overlay = difference ? "difference" : "opacity";
  else delete screens.dataset.overlay;
  pressed(overlayButton, on);
  pressed(differenceButton, difference);
  differenceButton.hidden = opacity.parentElement.hidden = !on;
  screens.style.setProperty("--opacity", opacity.value);
}

overlayButton.addEventListener("click", () => overlay());
opacity.addEventListener("input", () => {
  difference = false;
  overlay(true);
});
differenceButton.addEventListener("click", () => {
  difference = !difference;
  overlay(true);
});
key("v", "overlay: Video 2 over Video 1", () => overlay());
key("y", "while it is held in an overlay: only Video 2", () => {
  if (!("overlay" in screens.dataset)) return false;
  screens.dataset.overlay = "opacity";
  screens.style.setProperty("--opacity", "1");
});
document.addEventListener("keyup", (event) => event.key.toLowerCase() === "y" && "overlay" in screens.dataset && overlay(true));

// Zoom and pan: x and y are the place of the left upper corner, in hundredths of the picture.

let [x, y, scale] = [0, 0, 1];

function place(newX, newY, newScale = scale) {
  scale = clamp(newScale, 1, MOST);
  [x, y] = [newX, newY].map((value) => clamp(value, 100 * (1 - scale), 0));
  for (const [name, value] of Object.entries({x, y, scale})) screens.style.setProperty(`--${name}`, String(value));
  screens.toggleAttribute("data-zoomed", scale > 1);
  wholeButton.textContent = `${Math.round(10 * scale) / 10}×`;
}

/** Zoom; what is at a point, in hundredths of the picture, stays there. */
function zoom(factor, [atX, atY] = [50, 50]) {
  const after = clamp(scale * factor, 1, MOST);
  place(atX - ((atX - x) * after) / scale, atY - ((atY - y) * after) / scale, after);
}

for (const [id, factor] of [["zoom-in", 1.25], ["zoom-out", 0.8]]) document.querySelector(`#${id}`).addEventListener("click", () => zoom(factor));
wholeButton.addEventListener("click", () => place(0, 0, 1));
key("+", "zoom in on both videos", () => zoom(1.25));
key("-", "zoom out", () => zoom(0.8));

// The tool

let points = []; // [x, y] in pixels of the video
let side = 0; // the video that they are in
let seconds = 0; // the moment of that video
let cross = null; // the point that keys move
const drawings = pictures.map((picture, number) => {
  const drawing = shape("svg", {class: "measures", role: "application", "aria-label": `Measure in Video ${number + 1}: arrow keys move the cross, with shift by one pixel; Enter sets a point`});
  picture.append(drawing);
  return drawing;
});

const measuring = () => measureButton.getAttribute("aria-pressed") === "true";
const size = (number) => [player.videos[number].videoWidth || 16, player.videos[number].videoHeight || 9];

function words() {
  const [a, b, c] = points;
  if (!b) return "";
  if (!c) {
    const length = Math.hypot(b[0] - a[0], b[1] - a[1]);
    return `length ${length.toFixed(0)} px, ${((100 * length) / size(side)[1]).toFixed(0)} % of the height`;
  }
  const turn = Math.atan2(a[1] - b[1], a[0] - b[0]) - Math.atan2(c[1] - b[1], c[0] - b[0]);
  return `angle ${((Math.acos(Math.cos(turn)) * 180) / Math.PI).toFixed(1)}°`;
}

function draw() {
  for (const [number, drawing] of drawings.entries()) {
    const [width, height] = size(number);
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const drawn = number === side ? points : [];
    const radius = height / 60;
    drawing.replaceChildren(
      shape("polyline", {points: drawn.map((point) => point.join(",")).join(" ")}),
      ...drawn.map(([cx, cy]) => shape("circle", {cx, cy, r: radius})));
    if (cross && drawing === document.activeElement)
      drawing.append(shape("path", {d: `M${cross[0] - 3 * radius},${cross[1]}h${6 * radius}M${cross[0]},${cross[1] - 3 * radius}v${6 * radius}`}));
    drawing.setAttribute("tabindex", measuring() ? "0" : "-1");
  }
  const said = words();
  measuredLine.textContent = said ? `Video ${side + 1} at ${clock(seconds)}: ${said}` : measuring() ? "press on two or three points of a video" : "";
  noteButton.hidden = !said;
}

function add(number, point) {
  if (number !== side || points.length === 3) points = [];
  player.pause();
  [side, seconds] = [number, player.videos[number].currentTime];
  points.push(point);
  draw();
}

function measure(on = !measuring()) {
  pressed(measureButton, on);
  screens.toggleAttribute("data-measures", on);
  if (on) player.pause();
  else points = [];
  draw();
  announce(on ? "measure: press on two points for a length, on a third for an angle" : "no measuring");
}

/** The pixel of a video at a place of the window; the video is as large as its picture allows. */
function pixel(number, {clientX, clientY}) {
  const box = drawings[number].getBoundingClientRect(), [width, height] = size(number);
  const shown = Math.min(box.width / width, box.height / height);
  return [(clientX - box.left - (box.width - width * shown) / 2) / shown, (clientY - box.top - (box.height - height * shown) / 2) / shown];
}

measureButton.addEventListener("click", () => measure());
noteButton.addEventListener("click", () => {
  player.show(side, seconds);
  noteOf(side + 1, words());
});
key("r", "measure: a length by two points, an angle by a third", () => measure());
key("escape", "end of measuring", () => (measuring() ? measure(false) : false));

for (const [number, picture] of pictures.entries()) {
  let from = null; // [client x, client y, x, y] of a press
  let dragged = false;
  picture.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return; // without it, and with two fingers, the page scrolls
    event.preventDefault();
    const box = picture.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 300), [(100 * (event.clientX - box.left)) / box.width, (100 * (event.clientY - box.top)) / box.height]);
  }, {passive: false});
  picture.addEventListener("pointerdown", (event) => {
    [from, dragged] = [[event.clientX, event.clientY, x, y], false];
  });
  picture.addEventListener("pointermove", (event) => {
    if (!from || !event.buttons || scale === 1) return;
    const [right, down] = [event.clientX - from[0], event.clientY - from[1]];
    if (!dragged && Math.hypot(right, down) < DRAG) return;
    dragged = true;
    picture.setPointerCapture(event.pointerId);
    place(from[2] + (100 * right) / picture.clientWidth, from[3] + (100 * down) / picture.clientHeight);
  });
  picture.addEventListener("pointerup", () => (from = null));
  picture.addEventListener("click", (event) => measuring() && !dragged && add(number, pixel(number, event)));
  const drawing = drawings[number];
  drawing.addEventListener("focus", () => {
    cross ??= size(number).map((length) => length / 2);
    draw();
  });
  drawing.addEventListener("blur", draw);
  drawing.addEventListener("keydown", (event) => {
    const move = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (!move && event.key !== "Enter") return;
    event.preventDefault();
    event.stopPropagation(); // they are not the keys of the player here
    const most = size(number), step = event.shiftKey ? 1 : NUDGE * most[1];
    if (!move) return add(number, cross);
    cross = cross.map((value, axis) => clamp(value + step * move[axis], 0, most[axis]));
    draw();
  });
  player.videos[number].addEventListener("loadedmetadata", draw);
}
draw();
