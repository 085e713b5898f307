"use strict";
// What all pages share: tips and the theme. Everything is on the pages without it.

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

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hide();
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
