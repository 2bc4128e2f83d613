// The admin pages: links of people, import, and decisions about pairs.

import {announce, key} from "/static/keys.js";
import {reason, send} from "/static/annotate_send.js";

const PIECE = 500_000; // characters of tasks in a request: a body has a limit

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
  const words = [];
  while (tasks.length) {
    let size = 0, count = 0;
    while (count < tasks.length && count < 5000 && (count === 0 || size < PIECE)) size += JSON.stringify(tasks[count++]).length;
    const done = await act("import", {tasks: tasks.splice(0, count)});
    if (!done) return;
    words.push(done.done);
  }
  announce(words.join("; "));
});

const pair = document.querySelector("#pair");
if (pair) {
  const rejected = document.querySelector("#rejected");
  const decide = async () => {
    const texts = {}, scores = {};
    for (const row of document.querySelectorAll("[data-category]")) {
      texts[row.dataset.category] = row.querySelector("input").value;
      scores[row.dataset.category] = Number(row.querySelector("select").value);
    }
    const keystep = document.querySelector("#keystep").value;
    const body = {pair: JSON.parse(pair.textContent).id, keystep, texts, scores, rejected: rejected.value || null};
    if (await act("adjudicate", body)) location.href = document.querySelector("#next")?.href ?? "/annotate/admin/disagreements";
  };
  document.querySelector("#decide").addEventListener("click", decide);
  key("ctrl+enter", "decide", decide, {everywhere: true});
  if (document.querySelector("#next")) key("n", "next disagreement", () => document.querySelector("#next").click());
}
