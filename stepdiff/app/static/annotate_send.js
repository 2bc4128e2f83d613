// Requests of the pages.

const SILENT = "the server does not answer"; // which an annotator did not start

/** Throw what a request failed by, in words: browsers throw a TypeError where no answer comes, or an answer breaks off. */
export function silent(error) {
  throw error instanceof TypeError ? new Error(`${SILENT}: is stepdiff app running?`) : error;
}

/** Return the response to a request, as `fetch` does. */
export const request = (address, options) => fetch(address, options).catch(silent);

/**
 * Send a body as JSON. Returns {status, body}; status 0: no answer from the server, or one that may be another soon.
 * `after`: the seconds to wait, where the server says so.
 */
export async function send(address, body, {keepalive = false} = {}) {
  const headers = {"Content-Type": "application/json", Accept: "application/json"};
  try {
    const response = await fetch(address, {method: "POST", headers, body: JSON.stringify(body), keepalive, redirect: "error"});
    const found = await response.json().catch(() => ({}));
    const later = response.status >= 500 || response.status === 429;
    return {status: later ? 0 : response.status, body: found, after: Number(response.headers.get("Retry-After")) || 0};
  } catch {
    return {status: 0, body: {}, after: 0};
  }
}

/** Load the page again, as soon as the server answers; `show` shows why that takes time. */
export async function again(show) {
  for (;;) {
    try {
      if ((await fetch("/static/annotate_send.js", {method: "HEAD", cache: "no-store"})).ok) break;
    } catch {
      show("the server does not answer, trying again");
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  location.href = "/annotate";
}

/** Sign out where the button is clicked. */
export function leaveBy(button, show) {
  button?.addEventListener("click", async () => {
    const result = await send("/annotate/leave", {});
    if (result.status === 200) again(show);
    else show(`✗ ${reason(result)}`);
  });
}

/** The reason of a refusal, in words. */
export function reason({status, body}) {
  if (status === 0) return body.error ?? SILENT;
  if (status === 422) return "the server does not accept one of these values";
  return body.error ?? `the server refuses this (${status})`;
}
