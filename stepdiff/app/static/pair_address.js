// The state of the page of a pair in its address: what one person sees, another opens.
//
// A player that plays has no time in the address, and a page that is opened with a time is paused there. The links to the
// other order of the clips and to other pairs carry what is true of them too.

const root = document.querySelector("[data-player]");
const {player} = root;
const fields = {model: document.querySelector("#head"), question: document.querySelector("#question")};
const WAIT = 200; // milliseconds from a change to the address: browsers bound how often it is written
const OF_SIDES = ["offset", "in", "out"]; // parameters with a value of each clip

/** Return the numbers of a parameter, null where one is missing. */
function numbers(given, name, count) {
  const parts = (given.get(name) ?? "").split(",").map((part) => (part === "" ? NaN : Number(part)));
  return Array.from({length: count}, (_, place) => (parts[place] >= 0 && parts[place] < Infinity ? parts[place] : null));
}

function read() {
  const given = new URLSearchParams(location.search);
  const [first, last] = ["in", "out"].map((name) => numbers(given, name, 2));
  player.restore({
    time: numbers(given, "time", 1)[0],
    offsets: numbers(given, "offset", 2).map((seconds) => seconds ?? 0),
    ranges: first.map((time, number) => [time, last[number]]),
    speed: numbers(given, "speed", 1)[0],
    looping: given.get("loop") !== "0",
    stretched: given.get("equal") === "1",
    warped: given.get("warp") === "1",
  });
  const {model, question} = fields;
  if (model && [...model.options].some((option) => option.value === given.get("model")))
    model.value = given.get("model");
  if (question) question.value = given.get("question") ?? "";
}

const rounded = (seconds) => (seconds === null ? "" : String(Math.round(1000 * seconds) / 1000));
const both = (values) => (values.some((value) => value !== null && value !== 0) ? values.map(rounded).join() : "");

/** Return what the address holds, as texts; empty: nothing. */
function state() {
  const {time, offsets, ranges, speed, looping, stretched, warped} = player.state;
  return {
    time: rounded(time),
    offset: both(offsets),
    in: both(ranges.map(([first]) => first)),
    out: both(ranges.map(([, last]) => last)),
    speed: speed === 1 ? "" : String(speed),
    loop: looping ? "" : "0",
    equal: stretched ? "1" : "",
    warp: warped ? "1" : "",
    model: fields.model?.value ?? "",
    question: fields.question?.value ?? "",
  };
}

function set(address, values) {
  for (const [name, value] of Object.entries(values))
    value === "" ? address.searchParams.delete(name) : address.searchParams.set(name, value);
  return address;
}

/** Let the links to pairs carry what is true of them: times change sides where the clips are swapped. */
function carry(now) {
  const swapped = OF_SIDES.map((name) => [name, now[name].split(",").reverse().join()]);
  if (player.warped && now.time) swapped.push(["time", rounded(Math.max(0, player.videos[1].currentTime - player.offsets[1]))]);
  const others = ["time", ...OF_SIDES].map((name) => [name, ""]);
  for (const [id, own] of [["#swap", swapped], ["#next", others], ["#previous", others]]) {
    const link = document.querySelector(`${id}[href*="reference="]`); // not that to the search for pairs
    if (link) link.href = set(new URL(link.href), {...now, ...Object.fromEntries(own)});
  }
}

let timer = 0;
function write() {
  clearTimeout(timer);
  const now = state();
  history.replaceState(null, "", set(new URL(location), now));
  carry(now);
}

function later() {
  clearTimeout(timer);
  timer = setTimeout(write, WAIT);
}

/** Do something that shows another part of the page: the browser's key for "back" undoes it. */
export function visit(go) {
  write();
  history.pushState(null, "", location);
  go();
  write();
}

read();
carry(state());
root.addEventListener("change", later);
fields.question?.addEventListener("input", later);
fields.model?.addEventListener("change", later);
addEventListener("popstate", read);
for (const link of document.querySelectorAll("#swap, #next, #previous")) link.addEventListener("click", write);
