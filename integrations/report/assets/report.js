"use strict";
// Everything is on the page without this script; it adds the tips, the theme, arrow keys and unfolding.

const tip = document.getElementById("tip");
let told = null;

function show(target) {
  told = target;
  tip.textContent = target.dataset.tip;
  tip.hidden = false;
  const at = target.getClientRects()[0] || target.getBoundingClientRect();
  const box = tip.getBoundingClientRect();
  const below = at.bottom + 8 + box.height < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - box.width - 8))}px`;
  tip.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - box.height - 8)}px`;
}

function hide() {
  told = null;
  tip.hidden = true;
}

function tipped(event) {
  return event.target instanceof Element ? event.target.closest("[data-tip]") : null;
}

document.addEventListener("pointerover", (event) => {
  const target = tipped(event);
  if (target) show(target);
  else if (told && told !== document.activeElement && !tip.contains(event.target)) hide();
});
document.addEventListener("focusin", (event) => (tipped(event) ? show(tipped(event)) : hide()));
document.addEventListener("focusout", hide);
document.addEventListener("scroll", () => { if (told && told !== document.activeElement) hide(); }, { passive: true });

// One stop of the tab key a text; arrow keys go from one rejection to the next.
for (const text of document.querySelectorAll(".text")) {
  const marks = [...text.querySelectorAll("button.lost")];
  marks.forEach((mark, at) => { mark.tabIndex = at ? -1 : 0; });
}

function move(mark, key) {
  const marks = [...mark.parentElement.querySelectorAll("button.lost")];
  const at = marks.indexOf(mark);
  const next = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: marks.length - 1 }[key];
  if (!marks[next]) return;
  mark.tabIndex = -1;
  marks[next].tabIndex = 0;
  marks[next].focus();
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hide();
  const mark = event.target.closest?.("button.lost");
  if (mark && /^(Arrow|Home|End)/.test(event.key)) {
    event.preventDefault();
    move(mark, event.key);
  }
});

const theme = document.getElementById("theme");
const schemes = { auto: "light dark", light: "light", dark: "dark" };

function stored(value) {
  try { // a file opened from disk may have no storage
    if (value) localStorage.setItem("trimode-theme", value);
    return localStorage.getItem("trimode-theme");
  } catch { return null; }
}

function paint(name) {
  document.documentElement.style.colorScheme = schemes[name];
  theme.querySelector("b").textContent = name;
}

theme.hidden = false;
let scheme = schemes[stored()] ? stored() : "auto";
paint(scheme);
theme.addEventListener("click", () => {
  const names = Object.keys(schemes);
  scheme = names[(names.indexOf(scheme) + 1) % names.length];
  paint(scheme);
  stored(scheme);
});

const unfold = document.getElementById("unfold");
if (unfold) {
  const calls = [...document.querySelectorAll("details.call")];
  unfold.hidden = calls.length === 0;
  unfold.addEventListener("click", () => {
    const open = !calls.every((call) => call.open);
    for (const call of calls) call.open = open;
    unfold.textContent = open ? "Fold all" : "Unfold all";
  });
}

function reveal() {
  const call = location.hash.startsWith("#call-") && document.getElementById(location.hash.slice(1));
  if (call) {
    call.open = true;
    call.scrollIntoView();
  }
}
addEventListener("hashchange", reveal);
reveal();
