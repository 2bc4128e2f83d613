// Signing in by a name, and undo on the page that follows the last pair.

import {announce, key} from "/static/keys.js";
import {again, leaveBy, reason, send} from "/static/annotate_send.js";

const form = document.querySelector("#enter");
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const result = await send("/annotate/enter", {name: form.elements.name.value});
  if (result.status === 200) again(announce);
  else form.querySelector(".error").textContent = `✗ ${reason(result)}`;
});

form?.querySelector("button").removeAttribute("disabled"); // without the script, the form sends nothing

leaveBy(document.querySelector("#leave"), announce);

const button = document.querySelector("#undo");
if (button) {
  const undo = async () => {
    const result = await send("/annotate/undo", {});
    if (result.status === 200) again(announce);
    else announce(`✗ ${reason(result)}`);
  };
  button.addEventListener("click", undo);
  key("u", "undo the last submission", undo);
}
