// The same difference elsewhere: on the page of a pair, the list of /pair/elsewhere is shown below its form.

import {request} from "/static/annotate_send.js";
import {key, waiting} from "/static/keys.js";

const form = document.querySelector("#elsewhere-form"), place = document.querySelector("#elsewhere");

async function find() {
  const end = waiting(place, "Comparing pairs of clips");
  try {
    const response = await request(`${form.action}?${new URLSearchParams(new FormData(form))}`, {headers: {Accept: "text/html"}});
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    place.replaceChildren(...(page.querySelector("#elsewhere") ?? page.querySelector("main")).childNodes);
  } catch (error) {
    place.textContent = error.message;
  } finally {
    end();
  }
}

if (document.querySelector("#pair-data")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    find();
  });
}
key("f", "find the same difference elsewhere", () => form.requestSubmit());
