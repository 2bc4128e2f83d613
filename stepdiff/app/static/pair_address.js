// The state of the page of a pair in its address: what one person sees, another opens.
//
// A player that plays has no time in the address, and a page that is opened with a time is paused there.

const root = document.querySelector("[data-player]");
const {player} = root;
const fields = {model: document.querySelector("#head"), question: document.querySelector("#question")};
const given = new URLSearchParams(location.search);
const WAIT = 200; // milliseconds from a change to the address: browsers bound how often it is written

/** Return the numbers of a parameter, null where one is missing. */
function numbers(name, count) {
  const parts = (given.get(name) ?? "").split(",").map((part) => (part === "" ? NaN : Number(part)));
  return Array.from({length: count}, (_, place) => (parts[place] >= 0 && parts[place] < Infinity ? parts[place] : null));
}

function read() {
  const [time, first, last, speed] = ["time", "in", "out", "speed"].map((name) => numbers(name, 1)[0]);
  player.restore({
    time,
    offsets: numbers("offset", 2).map((seconds) => seconds ?? 0),
    range: [first, last],
    speed,
    looping: given.get("loop") !== "0",
    stretched: given.get("equal") === "1",
    warped: given.get("warp") === "1",
  });
  const {model, question} = fields;
  if (model && [...model.options].some((option) => option.value === given.get("model")))
    model.value = given.get("model");
  if (question) question.value = given.get("question") ?? "";
}

function write() {
  const {time, offsets, range, speed, looping, stretched, warped} = player.state;
  const rounded = (seconds) => String(Math.round(1000 * seconds) / 1000);
  const state = {
    time: time === null ? "" : rounded(time),
    offset: offsets.some(Boolean) ? offsets.map(rounded).join() : "",
    in: range[0] === null ? "" : rounded(range[0]),
    out: range[1] === null ? "" : rounded(range[1]),
    speed: speed === 1 ? "" : String(speed),
    loop: looping ? "" : "0",
    equal: stretched ? "1" : "",
    warp: warped ? "1" : "",
    model: fields.model?.value ?? "",
    question: fields.question?.value ?? "",
  };
  const address = new URL(location);
  for (const [name, value] of Object.entries(state))
    value === "" ? address.searchParams.delete(name) : address.searchParams.set(name, value);
  history.replaceState(null, "", address);
}

let timer = 0;
function later() {
  clearTimeout(timer);
  timer = setTimeout(write, WAIT);
}

read();
root.addEventListener("change", later);
fields.question?.addEventListener("input", later);
fields.model?.addEventListener("change", later);
