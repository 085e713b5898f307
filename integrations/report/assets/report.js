// Behind shared.js: arrow keys, unfolding and filters. Everything is on the page without this script.

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
  const mark = event.target.closest?.("button.lost");
  if (mark && /^(Arrow|Home|End)/.test(event.key)) {
    event.preventDefault();
    move(mark, event.key);
  }
});

const unfold = document.getElementById("unfold");
if (unfold) {
  const calls = [...document.querySelectorAll("details.call")];
  unfold.hidden = calls.length === 0;
  unfold.addEventListener("click", () => {
    const shown = calls.filter((call) => !call.hidden);
    const open = !shown.every((call) => call.open);
    for (const call of shown) call.open = open;
    unfold.textContent = open ? "Fold all" : "Unfold all";
  });
}

const filter = document.getElementById("filter");
const find = document.getElementById("find");
const facets = [...filter.querySelectorAll("[data-facet]")];
const listed = [...document.querySelectorAll(".call")];
const said = new WeakMap(); // a call's text in small letters, read when it is first asked for

function text(call) {
  if (!said.has(call)) said.set(call, call.textContent.toLowerCase().replace(/\s+/g, " "));
  return said.get(call);
}

function fits(call, facet) {
  const name = facet.dataset.facet;
  if (facet.type === "checkbox") return !facet.checked || name in call.dataset;
  return !facet.value || facet.value === `=${call.dataset[name]}`;
}

function sift() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const call of listed) {
    call.hidden = !(facets.every((facet) => fits(call, facet)) && words.every((word) => text(call).includes(word)));
    shown += !call.hidden;
  }
  for (const run of document.querySelectorAll(".run")) run.hidden = !run.querySelector(".call:not([hidden])");
  document.getElementById("found").textContent = shown < listed.length ? `${shown} of ${listed.length} calls` : "";
}

function clear() {
  find.value = "";
  for (const facet of facets) {
    if (facet.type === "checkbox") facet.checked = false;
    else facet.value = "";
  }
  sift();
}

filter.hidden = listed.length < 2;
filter.addEventListener("input", sift);
addEventListener("pageshow", sift); // a browser that goes back fills the fields in again

function reveal() {
  const call = location.hash.startsWith("#call-") && document.getElementById(location.hash.slice(1));
  if (call) {
    if (call.hidden) clear();
    call.open = true;
    call.scrollIntoView();
  }
}
addEventListener("hashchange", reveal);
reveal();
