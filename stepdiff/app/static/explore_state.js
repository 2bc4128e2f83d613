// The state of the explorer is the address: what can be seen can be sent to a colleague, and the back button works.

const TEXTS = ["view", "projection", "colour", "where", "words", "lasso", "text", "by", "sort", "first", "second"];
const FIRST = {projection: "pca"};
const MOST_PINS = 2;

/** Read the state from the address. */
export function readState() {
  const given = new URLSearchParams(location.search), state = {};
  for (const name of TEXTS) state[name] = given.get(name) ?? FIRST[name] ?? (name === "colour" ? null : "");
  state.near = given.getAll("near");
  state.lassoed = given.get("lassoed") === "1";
  state.pins = given.getAll("pin").slice(0, MOST_PINS);
  state.offset = Math.max(0, Math.trunc(Number(given.get("offset")) || 0));
  const at = (given.get("at") ?? "").split(",").map(Number);
  state.at = at.length === 3 && at.every(Number.isFinite) && at[2] > 0 ? {cx: at[0], cy: at[1], zoom: at[2]} : null;
  return state;
}

/** Return a place and zoom of the map with as many digits as the address has. */
export function rounded({cx, cy, zoom}) {
  const digits = Math.min(Math.ceil(Math.log10(Math.max(zoom, 1))) + 6, 15);
  return {cx: Number(cx.toPrecision(digits)), cy: Number(cy.toPrecision(digits)), zoom: Number(zoom.toPrecision(6))};
}

/** Return the part of the address that decides which clips are chosen. */
export function choiceOf(state) {
  const asked = new URLSearchParams();
  for (const name of ["view", "projection", "where", "words", "lasso", "text", "by"]) if (state[name]) asked.set(name, state[name]);
  for (const key of state.near) asked.append("near", key);
  if (state.lassoed) asked.set("lassoed", "1");
  return asked;
}

/** Write the state into the address: a new entry of the history, or the current one. */
export function writeState(state, {push}) {
  const asked = choiceOf(state);
  if (state.projection === FIRST.projection) asked.delete("projection");
  if (state.colour !== null) asked.set("colour", state.colour);
  for (const name of ["sort", "first", "second"]) if (state[name]) asked.set(name, state[name]);
  if (state.offset) asked.set("offset", state.offset);
  for (const key of state.pins) asked.append("pin", key);
  if (state.at) asked.set("at", [state.at.cx, state.at.cy, state.at.zoom].join(","));
  const address = `${location.pathname}?${asked}`;
  if (address === location.pathname + location.search) return;
  if (push) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
}
