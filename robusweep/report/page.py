"""The style sheet and the script of the HTML report. Without the script everything can still be read."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --bg: #fff; --ink: #1b1f24; --soft: #57606a; --rule: #d5dae0; --grid: #e9ecf0;
  --card: #f6f8fa; --warn: #fff3cd; --warn-rule: #b58100; --front: #c5162e; --row: #fdf0f1; --dominated: #7d8793;
  --clean: #0067b3; --a0: #7b4bb3; --a1: #a86500; --a2: #00795a; --a3: #a8417f; --a4: #4a5560; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --ink: #e6e9ed; --soft: #a0a9b4; --rule: #3a424c;
  --grid: #262c33; --card: #1d2228; --warn: #3a2f0b; --warn-rule: #d9a520; --front: #ff7b7f;
  --row: #2e1f23; --dominated: #8b95a1; --clean: #5db4ff; --a0: #c29bf0; --a1: #f0b040; --a2: #4fd0a8;
  --a3: #f08cc4;
  --a4: #b8c2cc; --link: #78b8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 1180px; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--rule); }
p, dl, ul { margin: .6rem 0; } a { color: var(--link); } .soft { color: var(--soft); font-size: .9rem; }
.lead { font-size: 1.1rem; } p, li, dd { overflow-wrap: anywhere; max-width: 85ch; }
.notices { background: var(--warn); border-left: 5px solid var(--warn-rule); padding: .7rem 1rem; margin: 1rem 0; }
.notices p { margin: 0; font-weight: 600; } .notices ul { margin: .3rem 0 0; padding-left: 1.2rem; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
svg.chart { display: block; width: 100%; max-width: 900px; height: auto; } svg.chart.small { max-width: 520px; }
svg text { font-size: 14px; fill: var(--soft); font-family: inherit; } svg text.title { fill: var(--ink); }
svg text.number { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--bg); stroke-width: 4px; }
.axis { stroke: var(--soft); fill: none; } .grid { stroke: var(--grid); fill: none; }
.cross { fill: none; stroke-width: 1; stroke: var(--dominated); opacity: .3; }
.cross.front, .cross.knee { stroke: var(--front); opacity: .6; }
.step { fill: none; stroke: var(--front); stroke-width: 2; }
circle.front, path.knee:not(.cross) { fill: var(--front); stroke: var(--bg); stroke-width: 1.5; }
circle.dominated { fill: var(--bg); stroke: var(--dominated); stroke-width: 1.8; }
circle.infeasible { fill: var(--dominated); stroke: none; opacity: .45; }
circle.stopped { fill: none; stroke: var(--dominated); stroke-width: 1.2; stroke-dasharray: 2 2; opacity: .7; }
a.lit circle, a.lit path.knee { stroke: var(--ink); stroke-width: 3; }
svg a:focus-visible { outline: 2px solid var(--link); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .4rem 0 .6rem; font-size: .9rem; }
.legend svg { width: 18px; height: 18px; vertical-align: -4px; margin-right: .4rem; }
.legend svg.wide { width: 34px; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 1.2rem; }
.panel svg { display: block; width: 100%; height: auto; } .panel figcaption { color: var(--ink); font-weight: 600; }
.line { fill: none; stroke-width: 2; } .band { stroke: none; fill-opacity: .1; } .dot { stroke: var(--bg); }
.line.robust { stroke-width: 3; } .clean { --c: var(--clean); } .robust { --c: var(--front); }
.attack0 { --c: var(--a0); } .attack1 { --c: var(--a1); } .attack2 { --c: var(--a2); }
.attack3 { --c: var(--a3); } .attack4 { --c: var(--a4); } .line.held { stroke-dasharray: 6 4; }
.line { stroke: var(--c); } .band, .dot { fill: var(--c); } .foot { fill: var(--front); }
.guide { stroke: var(--ink); opacity: 0; } .target { fill: transparent; }
a:hover .guide, a.lit .guide { opacity: .5; }
.whole { --c: var(--dominated); } .whisker { stroke: var(--c); fill: none; stroke-width: 1.5; opacity: .55; }
.reference { stroke: var(--dominated); fill: none; stroke-dasharray: 2 4; } a.lit .dot { stroke: var(--ink); }
.threshold { stroke: var(--front); fill: none; stroke-dasharray: 5 4; } .drawn { stroke: var(--ink); fill: none; }
.panels.few { grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); }
.weights { margin: 1.2rem 0; } .weights figcaption { color: var(--ink); font-weight: 600; margin-bottom: .3rem; }
svg.shares { display: block; width: 210px; } svg.shares text { font-size: 12px; } .bar { fill: var(--c); }
.panels.few svg text { font-size: 10px; }
.scroll { overflow-x: auto; width: fit-content; max-width: 100%; border: 1px solid var(--rule); border-radius: 6px; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: left; vertical-align: top; } td { border-top: 1px solid var(--grid); }
thead th { background: var(--card); vertical-align: bottom; font-weight: 600; line-height: 1.3; }
th small { display: block; font-weight: 400; color: var(--soft); white-space: nowrap; }
.points td { white-space: nowrap; }
.points td.text { white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
.points td.id:has(small) { min-width: 11.5rem; } .weights .points td.text { min-width: 9.5rem; }
.points td.long { min-width: 15rem; }
.points td.id { white-space: normal; overflow-wrap: anywhere; min-width: 6.5rem; max-width: 14rem; }
.points td small { display: block; color: var(--soft); font-size: .75rem; line-height: 1.25; }
.points td.id { position: sticky; left: 0; background: var(--bg); }
.points tr.front td { background: var(--row); } .points tr.front td.mark { color: var(--front); font-weight: 700; }
.points tr td.tinted { background: var(--warn); }
.points tr td.shaded { background: color-mix(in srgb, var(--link) calc(var(--share) * .35), transparent); }
.points tr td.framed { box-shadow: inset 0 0 0 2px var(--ink); }
.points tr.lit td, .points tr:target td { box-shadow: inset 0 2px var(--link), inset 0 -2px var(--link); }
th.group { border-left: 1px solid var(--rule); text-align: left; }
th.key { min-width: 4rem; }
th[data-sortable] { cursor: pointer; } th[aria-sort=ascending]::after { content: " ▲"; }
th[aria-sort=descending]::after { content: " ▼"; }
.plain td, .plain th { overflow-wrap: anywhere; }
.plain td { white-space: pre-line; } .plain td.right, .plain th.right { text-align: right; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem; }
code, pre { font: .85rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: var(--card); padding: .8rem 1rem; overflow-x: auto; border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; } summary { cursor: pointer; } code { overflow-wrap: anywhere; }
#tip { position: fixed; z-index: 9; pointer-events: none; background: var(--ink); color: var(--bg);
padding: .5rem .7rem;
  border-radius: 6px; font-size: .82rem; line-height: 1.4; white-space: pre-line; max-width: min(90vw, 30rem);
  overflow-wrap: anywhere; }
@media (max-width: 620px) { body { padding: 1rem .8rem 3rem; } svg.chart text { font-size: 23px; }
  .legend { gap: .2rem .8rem; } }
@media print { :root { --bg: #fff; --ink: #000; --soft: #444; }
body { max-width: none; padding: 0; font-size: 11pt; }
  .scroll { overflow: visible; border: 0; } table { font-size: 7.5pt; } th, td { padding: .15rem .3rem; }
  .points td, th small { white-space: normal; } figure, tr, .notices { break-inside: avoid; }
  h2 { break-after: avoid; }
  #tip { display: none; } }
"""

JS = """
(() => {
  const marks = [...document.querySelectorAll("a[data-row]")];
  const tip = document.body.appendChild(Object.assign(document.createElement("div"), {id: "tip", hidden: true}));
  const light = (row, on) => {
    marks.filter(mark => mark.dataset.row === row).forEach(mark => mark.classList.toggle("lit", on));
    document.getElementById("row-" + row)?.classList.toggle("lit", on);
  };
  const show = (mark, x, y) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 4)) + "px";

  tip.style.top = Math.max(4, y + 14 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 10 : y + 14) + "px";
  };
  for (const mark of marks) {
    const title = mark.querySelector("title");
    mark.dataset.tip = title.textContent;
    title.remove();
    const leave = () => { tip.hidden = true; light(mark.dataset.row, false); };
    mark.addEventListener("pointermove", event => show(mark, event.clientX, event.clientY));
    mark.addEventListener("pointerenter", () => light(mark.dataset.row, true));
    mark.addEventListener("pointerleave", leave);
    mark.addEventListener("focus", () => {
      const box = mark.getBoundingClientRect();
      show(mark, box.right, box.bottom);
      light(mark.dataset.row, true);
    });
    mark.addEventListener("blur", leave);
  }
  for (const row of document.querySelectorAll("tr[id^='row-']")) {
    row.addEventListener("pointerenter", () => light(row.id.slice(4), true));
    row.addEventListener("pointerleave", () => light(row.id.slice(4), false));
  }
  const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return a !== "" && b !== "" && !isNaN(a) && !isNaN(b) ? a - b : a.localeCompare(b, undefined, {numeric: true});
  };
  const sort = (table, heads, head, column) => {
    const falling = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falling === 1 ? "ascending" : "descending");
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort((a, b) => falling * order(key(a, column), key(b, column))));
  };
  for (const table of document.querySelectorAll("table.points")) {
    const heads = [...table.tHead.rows].at(-1).cells;
    [...heads].forEach((head, column) => {
      head.dataset.sortable = "";
      head.tabIndex = 0;
      head.title = "sort by this column";
      head.addEventListener("click", () => sort(table, [...heads], head, column));
      head.addEventListener("keydown", event => { if (event.key === "Enter") sort(table, [...heads], head, column); });
    });
  }
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(d => { d.open = true; }));
})();
"""
