// Requests to this server: with the API key if it wants one, again if it is busy, and errors with their message.

import { find } from "./dom.js";

export class ApiError extends Error {
  constructor(kind, message, status = 0) {
    super(message);
    this.kind = kind;
    this.status = status;
  }
}

let key = null; // in memory alone: gone with the page
let asking = null;

// onWait(seconds) is told when the server has no room and the request waits to be sent again.
export async function ask(path, { method = "GET", body, headers = {}, onWait = () => {} } = {}) {
  for (;;) {
    const used = key;
    const response = await send(path, { method, body, headers: used ? { ...headers, Authorization: `Bearer ${used}` } : headers });
    if (response.status === 401) {
      if (used === key) await askForKey(used !== null);
    } else if (response.status === 429) {
      const seconds = Math.max(1, Number(response.headers.get("Retry-After")) || 1);
      onWait(seconds);
      await new Promise((resume) => setTimeout(resume, seconds * 1000));
    } else if (response.ok) {
      return response;
    } else {
      throw await errorOf(response);
    }
  }
}

export const askJson = async (path, options) => (await ask(path, options)).json();

export const sendJson = (path, method, content) =>
  askJson(path, { method, body: content && JSON.stringify(content), headers: content ? { "Content-Type": "application/json" } : {} });

async function send(path, options) {
  try {
    return await fetch(path, { ...options, cache: "no-store" });
  } catch {
    throw new ApiError("unreachable", "The server does not answer; see that it runs, then try again.");
  }
}

async function errorOf(response) {
  const told = await response.json().catch(() => null);
  const error = told?.error;
  if (error?.message) return new ApiError(error.kind, error.message, response.status);
  return new ApiError("server", `The server answered ${response.status} ${response.statusText}.`, response.status);
}

// One question, however many requests wait for its answer.
function askForKey(wasWrong) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = find("#key");
    find(".error", dialog).textContent = wasWrong ? "This key was not accepted." : "";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      const field = find("input", dialog);
      const given = field.value.trim();
      field.value = "";
      asking = null;
      if (dialog.returnValue === "use" && given) {
        key = given;
        resolve();
      } else {
        reject(new ApiError("no_key", "The server wants an API key.", 401));
      }
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}
