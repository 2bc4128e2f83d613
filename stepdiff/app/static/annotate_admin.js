// The admin pages: links of people, import, and decisions about pairs.

import {announce, key} from "/static/keys.js";
import {reason, send} from "/static/annotate_send.js";

const PIECE = 300_000; // characters of tasks in a request: a body has a limit in bytes, of which a character may take 3

async function act(address, body) {
  const result = await send(`/annotate/admin/${address}`, body);
  if (result.status === 200) return result.body;
  announce(`✗ ${reason(result)}`);
  return null;
}

function showLink({name, address}) {
  const made = document.querySelector("#made");
  made.querySelector("strong").textContent = name;
  made.querySelector("code").textContent = address;
  made.hidden = false;
  made.querySelector("button").onclick = async () => {
    await navigator.clipboard.writeText(address);
    announce("copied");
  };
}

document.querySelector("#add")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const made = await act("people", {name: document.querySelector("#name").value});
  if (made) showLink(made);
});

for (const row of document.querySelectorAll("[data-person]")) {
  const person = Number(row.dataset.person);
  row.querySelector("[data-do=link]").addEventListener("click", async () => {
    const made = await act("people/link", {person});
    if (made) showLink(made);
  });
  row.querySelector("[data-do=revoke]")?.addEventListener("click", async () => {
    if (confirm("Revoke this link? Open pairs of this person return to the pool.") && (await act("people/revoke", {person}))) location.reload();
  });
  const button = row.querySelector("[data-do=exclude], [data-do=include]");
  button.addEventListener("click", async () => {
    const done = await act(`people/${button.dataset.do}`, {person});
    if (!done) return;
    history.replaceState(null, "", `#${row.id}`); // the page that follows begins there
    location.reload();
  });
}

// After a change or a new order, the keyboard goes on where it was.
const place = document.getElementById(location.hash.slice(1));
(place?.querySelector("[data-do=exclude], [data-do=include]") ?? place)?.focus({preventScroll: true});

function showImported({taken, leftOut, refused}, ended = "") {
  const words = [`${taken} answers taken`, ...Object.entries(leftOut).map(([why, count]) => `${count} left out: ${why}`)];
  if (refused.length) words.push(`${refused.length} refused`);
  const shown = document.querySelector("#imported"), list = shown.querySelector("ul");
  shown.querySelector("p").textContent = `${words.join("; ")}. ${taken ? "Reload the page for new figures. " : ""}${ended}`;
  list.replaceChildren(...refused.map((line) => Object.assign(document.createElement("li"), {textContent: line})));
  list.hidden = refused.length === 0;
  shown.hidden = false;
  announce(ended || words.join("; "));
}

document.querySelector("#import")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  let tasks;
  try {
    tasks = JSON.parse(await document.querySelector("#file").files[0].text());
    if (!Array.isArray(tasks)) throw new Error("not a list");
  } catch {
    return announce("✗ not a Label Studio export: choose a file of Export, JSON");
  }
  const found = {taken: 0, leftOut: {}, refused: []};
  for (let first = 0, end = 0; first < tasks.length; first = end) {
    for (let size = 0; end < tasks.length && end < first + 5000 && size < PIECE; end++) size += JSON.stringify(tasks[end]).length;
    const result = await send("/annotate/admin/import", {tasks: tasks.slice(first, end), first: first + 1});
    if (result.status !== 200) return showImported(found, `✗ Not imported from task ${first + 1} on: ${reason(result)}`);
    const {taken, left_out, refused} = result.body;
    found.taken += taken;
    for (const [why, count] of Object.entries(left_out)) found.leftOut[why] = (found.leftOut[why] ?? 0) + count;
    found.refused.push(...refused);
  }
  showImported(found);
});

const pair = document.querySelector("#pair");
if (pair) {
  const {id, left, otherWay} = JSON.parse(pair.textContent);
  const keystep = document.querySelector("#keystep"), rejected = document.querySelector("#rejected");
  const rows = [...document.querySelectorAll("[data-category]")].map((root) => ({
    root,
    name: root.dataset.category,
    score: root.querySelector("select"),
    text: root.querySelector("input"),
  }));
  for (const row of rows) row.left = row.text.value.startsWith(otherWay) ? "candidate" : left; // on the left of this text
  let side = left;

  /** Give all texts one direction: how Video 2 differs, unless all of them say how Video 1 does. */
  const turn = () => {
    const written = rows.filter((row) => row.text.value.trim());
    side = written.length && written.every((row) => row.left === "candidate") ? "candidate" : "reference";
    for (const row of written.filter((row) => row.left === "candidate"))
      row.text.value = (side === "reference" ? otherWay : "") + row.text.value.replace(otherWay, "");
    const [one, two] = side === "reference" ? [2, 1] : [1, 2];
    document.querySelector("#direction").textContent = `Texts of the decision say how Video ${one} differs from Video ${two}.`;
    for (const row of rows) row.text.placeholder = `How does Video ${one} differ?`;
  };
  turn();
  for (const row of rows) {
    row.text.addEventListener("input", () => {
      row.left = row.text.value.startsWith(otherWay) ? "candidate" : side;
    });
  }
  for (const answer of document.querySelectorAll("[data-take]")) {
    answer.addEventListener("click", () => {
      const {take, text, score, left} = answer.dataset;
      rejected.value = take === "rejected" ? text : "";
      if (take === "keystep") keystep.value = text;
      if (take === "difference") {
        const row = rows.find((own) => own.root.contains(answer));
        [row.score.value, row.text.value, row.left] = [score, text, left];
        turn();
      }
    });
  }

  const decide = async () => {
    const texts = {}, scores = {};
    for (const row of rows) {
      texts[row.name] = row.text.value;
      if (row.score.value) scores[row.name] = Number(row.score.value);
    }
    const body = {pair: id, keystep: keystep.value, texts, scores, rejected: rejected.value || null, left: side};
    const result = await send("/annotate/admin/adjudicate", body);
    if (result.status === 200) {
      location.href = document.querySelector("#next")?.href ?? "/annotate/admin/disagreements";
      return;
    }
    const {fields = {}} = result.body;
    let first = null;
    for (const place of document.querySelectorAll("[data-field]")) {
      const why = fields[place.dataset.field];
      place.querySelector(".annotate-note").textContent = why ? `✗ ${why}` : "";
      for (const field of place.querySelectorAll("input, select")) {
        field.setAttribute("aria-invalid", String(Boolean(why)));
        if (why) first ??= field;
      }
    }
    first?.focus();
    announce(first ? "✗ not decided: see the marked lines" : `✗ ${reason(result)}`);
  };
  document.querySelector("#decide").addEventListener("click", decide);
  key("ctrl+enter", "decide", decide, {everywhere: true});
  if (document.querySelector("#next")) key("n", "next disagreement", () => document.querySelector("#next").click());
}
