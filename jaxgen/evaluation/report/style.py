"""The report's style sheet: light and dark, wide and narrow, no font or picture from outside.

The colours of runs are those of Okabe and Ito (2008), which colour-blind readers tell apart, made darker or lighter until
they stand out from the background by 3 to 1.
"""

CSS = """
:root {
  color-scheme: light dark;
  --background: #f7f7f5; --surface: #ffffff; --ink: #1c2126; --muted: #57606a; --line: #d5dadf; --accent: #0a5a9c;
  --warning: #fff3dc; --on-warning: #6b3f00; --edge-warning: #d9a441;
  --run-0: #0068a8; --run-1: #c25200; --run-2: #00835f; --run-3: #a84d82; --run-4: #9a6a00; --run-5: #2b87b8;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC",
    sans-serif;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --background: #14171a; --surface: #1c2024; --ink: #e4e7ea; --muted: #a4adb7; --line: #3a4149; --accent: #86bdf2;
    --warning: #33270f; --on-warning: #f4d08f; --edge-warning: #8a6a2a;
    --run-0: #56b4e9; --run-1: #f08a4b; --run-2: #2fc79a; --run-3: #dd93bd; --run-4: #e6b23c; --run-5: #9fb4ff;
  }
}
*, *::before { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--background); color: var(--ink); font: 16px/1.55 var(--sans); }
header, main { max-width: 1240px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 6px; }
h3 { font-size: 1rem; margin: 0; }
h4 { font-size: .9rem; margin: 14px 0 8px; color: var(--muted); font-weight: 600; }
h3.of-run { margin-top: 22px; }
p { margin: 0 0 10px; }
a { color: var(--accent); }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
code { font: .82em/1.4 var(--mono); overflow-wrap: anywhere; }
small { font-size: .8rem; font-weight: 400; color: var(--muted); }
section { margin: 0 0 44px; padding-top: 14px; border-top: 1px solid var(--line); }
.lead { max-width: 78ch; color: var(--muted); margin-bottom: 16px; }
.muted { color: var(--muted); }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
ul.runs, nav ul, ul.legend, ul.references, ul.captions { list-style: none; margin: 0; padding: 0; }
ul.runs li { margin-bottom: 2px; }
ul.runs li > span + span { color: var(--muted); font-size: .9rem; }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 14px 0 24px; font-size: .9rem; }
.run { font-weight: 600; overflow-wrap: anywhere; }
.run i { display: inline-block; width: .62em; height: .62em; border-radius: 50%; margin-right: .4em; }

.warning { background: var(--warning); color: var(--on-warning); border: 1px solid var(--edge-warning); border-radius: 6px;
  padding: 10px 16px; margin-bottom: 16px; font-size: .92rem; }
.warning ul { margin: 4px 0 0; padding-left: 20px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 220px), 1fr)); gap: 14px; }
.card { background: var(--surface); border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px;
  display: flex; flex-direction: column; }
.card dl { margin: 8px 0 4px; }
.card dt { font-size: .85rem; }
.card dd { margin: 0 0 4px; }
.card dd b { font-size: 1.6rem; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card p { color: var(--muted); font-size: .85rem; margin: 8px 0 0; }
.better { font-size: .75rem; font-weight: 400; color: var(--muted); white-space: nowrap; }
.interval { color: var(--muted); font-size: .85rem; white-space: nowrap; font-variant-numeric: tabular-nums; }
.ratio { font-size: .85rem; white-space: nowrap; }
ul.references { font-size: .8rem; color: var(--muted); display: flex; flex-wrap: wrap; gap: 0 14px; }
svg.strip { display: block; width: 100%; max-width: 340px; margin: 4px 0; }
svg.strip line { stroke-width: 3; stroke-linecap: round; }
svg.strip line.reference { stroke: var(--muted); stroke-width: 1; stroke-dasharray: 2 2; }
svg.strip text { font: 9px var(--sans); fill: var(--muted); }

.scroll { overflow-x: auto; max-width: 100%; margin-bottom: 16px; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; color: var(--muted); font-size: .85rem; padding-bottom: 6px; }
th, td { text-align: left; vertical-align: top; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); font-weight: 400; }
thead th { font-weight: 600; vertical-align: bottom; }
table.plain caption { color: var(--ink); font-weight: 600; font-size: .92rem; padding-top: 8px; }
table.plain td { overflow-wrap: anywhere; min-width: 90px; }
table.metrics { width: 100%; }
table.metrics tbody th[scope=row] { min-width: 240px; max-width: 560px; font-weight: 600; }
table.metrics th p { margin: 2px 0 0; color: var(--muted); font-size: .85rem; font-weight: 400; }
table.metrics th code { display: block; color: var(--muted); font-weight: 400; }
table.metrics td { font-variant-numeric: tabular-nums; }
table.metrics td > b, table.metrics td > span { display: block; }
table.metrics td.reference { color: var(--muted); }
tr.group th { padding-top: 18px; font-weight: 600; color: var(--muted); font-size: .85rem; }
.flag { margin-top: 4px; max-width: 26ch; padding: 1px 7px; border-radius: 4px; font-size: .78rem;
  background: var(--warning); color: var(--on-warning); }

figure { margin: 0; }
.confusions { display: flex; flex-wrap: wrap; gap: 16px 40px; }
.confusion { max-width: 100%; }
.confusion th, .confusion td { text-align: center; padding: 5px 8px; border: 1px solid var(--line); min-width: 38px;
  font-variant-numeric: tabular-nums; }
.confusion thead td { font-size: .75rem; color: var(--muted); white-space: nowrap; }
.confusion tbody td { background: color-mix(in srgb, var(--run-1) var(--share), var(--surface)); }
.confusion tbody td.right { background: color-mix(in srgb, var(--run-0) var(--share), var(--surface)); }
.confusion figcaption { margin-bottom: 6px; font-size: .9rem; max-width: 60ch; }

ul.runs.inline { display: flex; flex-wrap: wrap; gap: 0 16px; margin-bottom: 8px; font-size: .9rem; }
ul.captions, .neighbourhoods { --side: var(--width); --box: calc(var(--across) * (var(--side) + 8px) + 34px); display: grid;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--box)), 1fr)); gap: 12px; }
ul.captions { --box: calc(var(--across) * (var(--side) + 8px) + 18px); }
ul.captions > li, .neighbourhood { background: var(--surface); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 12px; display: flex; flex-direction: column; justify-content: space-between; min-width: 0; }
.caption { font-size: .88rem; line-height: 1.4; margin: 0 0 8px; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: 8px; align-items: flex-start; }
.picture { display: flex; flex-direction: column; max-width: 100%; }
/* A shadow, since a border would take from the whole multiples of small pictures. */
.picture img { display: block; max-width: 100%; height: auto; box-shadow: 0 0 0 1px var(--line); }
.picture small { font-size: .75rem; max-width: var(--side); overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.picture small .run { font-weight: 400; }
.none { font-size: .75rem; color: var(--muted); }
img.crisp { image-rendering: pixelated; }
.neighbourhood .sample { padding-right: 10px; margin-right: 2px; border-right: 2px solid var(--line); }
.neighbourhood .sample small { color: var(--ink); font-weight: 600; }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 14px; }
.chart { background: var(--surface); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; max-width: 620px; }
.chart figcaption { font-weight: 600; font-size: .95rem; }
.chart figcaption small { margin-left: 8px; }
.chart > svg { display: block; width: 100%; height: auto; }
.chart .grid line { stroke: var(--line); stroke-width: 1; }
.chart .grid text { font: 11.5px var(--sans); fill: var(--muted); font-variant-numeric: tabular-nums; }
path.line, path.faint { fill: none; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
path.faint { stroke-width: 1; opacity: .3; }
.chart circle { fill: transparent; }
.chart circle:hover { fill: var(--muted); fill-opacity: .5; }
ul.legend { display: flex; flex-wrap: wrap; gap: 0 14px; font-size: .8rem; color: var(--muted); margin: 2px 0 4px; }
ul.legend li { overflow-wrap: anywhere; }
ul.legend svg { width: 26px; height: 8px; margin-right: 5px; vertical-align: middle; }

details { margin: 14px 0; }
summary { cursor: pointer; color: var(--accent); font-size: .92rem; padding: 4px 0; }

@media (max-width: 640px) {
  header, main { padding-left: 16px; padding-right: 16px; }
  header { padding-top: 18px; }
  h1 { font-size: 1.4rem; }
  table.metrics, table.metrics tbody, table.metrics caption { display: block; }
  table.metrics thead { display: none; }
  table.metrics tr { display: flex; flex-wrap: wrap; gap: 4px 22px; padding: 10px 0; border-bottom: 1px solid var(--line); }
  table.metrics tr.group { padding-bottom: 4px; }
  table.metrics th, table.metrics td { border: 0; padding: 0; }
  table.metrics tbody th { flex: 0 0 100%; }
  table.metrics td.absent { display: none; }
  table.metrics td::before { content: attr(data-label); display: block; font-size: .75rem; color: var(--muted); }
  .neighbourhood .row { gap: 6px; }
  ul.captions { gap: 10px; }
  ul.captions > li { padding: 8px 10px; }
  ul.captions.small { --side: 64px; }
  .neighbourhoods.small { --side: 48px; }
  .small .sample small { font-size: .68rem; }
  .confusion th, .confusion td { padding: 4px; min-width: 29px; font-size: .8rem; }
  .confusion thead td { white-space: normal; }
  .small .picture img { width: var(--side); }
  .neighbourhood .sample { padding-right: 6px; margin-right: 0; }
}
"""
