// The search for pairs: a head scores the candidates on request, then the list is shown.

import {key} from "/static/keys.js";
import {Desk} from "/static/pair_events.js";

const scoring = document.querySelector("#scoring");
if (scoring) {
  const desk = new Desk();
  const score = async () => {
    const {head, step, category, order} = scoring.dataset;
    const found = await desk.run("/pair/find", {head, step, category, order}, "reading the clips");
    if (found) location.assign(found.address);
  };
  document.querySelector("#score").addEventListener("click", score);
  key("s", "score the pairs", score);
}
key("n", "open the first pair", () => document.querySelector(".pair-list a")?.click());

// Cosine compares whole clips: the category has no meaning then.
const by = document.querySelector("[name=by]");
const category = document.querySelector("[name=category]");
const enable = () => (category.disabled = by.value.startsWith("cosine"));
by.addEventListener("change", enable);
enable();
