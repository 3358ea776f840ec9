// Photos are blurred until they are clicked. The setting for all lasts for the session of this tab.

import { find } from "./dom.js";

const SETTING = "safeguard.unblurred";

export function setUpBlur() {
  const box = find("#unblur");
  box.checked = sessionStorage.getItem(SETTING) === "yes";
  const apply = () => {
    document.documentElement.classList.toggle("unblurred", box.checked);
    sessionStorage.setItem(SETTING, box.checked ? "yes" : "no");
  };
  box.addEventListener("change", apply);
  apply();
}

// A button with a picture in it: pressed, it shows the picture. `name` is what it is called aloud.
export function namePicture(button, name) {
  button.setAttribute("aria-label", `Show ${name} without blur`);
  button.setAttribute("aria-pressed", "false");
}

export function toggle(button) {
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
}
