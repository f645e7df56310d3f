"""The page's style sheet: one column, readable, light and dark by the reader's own setting. No fonts are loaded."""
# ruff: noqa: E501 - a style sheet keeps a rule on its line

CSS = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1c1e21;--soft:#5d646d;--line:#dfe1e5;--grid:#ebecef;
--s0:#2563c9;--s1:#d9731a;--s2:#2e8b57;--s3:#8c6bb8;--s4:#c0392b;--s5:#7a6a53;--good:#1f7a45;--warn:#a85b00;--on:#fff}
@media (prefers-color-scheme:dark){:root{--bg:#15171a;--card:#1d2024;--ink:#e7e9ec;--soft:#a2a9b3;--line:#343940;--grid:#292d33;
--s0:#6ea8ff;--s1:#f2a154;--s2:#63c793;--s3:#bda2e6;--s4:#ff8377;--s5:#c9b79c;--good:#63c793;--warn:#f2b45f;--on:#0e1116}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 22px 60px}
h1{font-size:27px;line-height:1.2;margin:0 0 4px}h2{font-size:19px;margin:0 0 10px}h3{font-size:15px;margin:18px 0 6px}
p{margin:0 0 10px;max-width:80ch}.soft{color:var(--soft)}.note{color:var(--soft);font-size:13.5px}
section{background:var(--card);border:1px solid var(--line);border-radius:9px;padding:18px 20px;margin:18px 0;overflow-x:auto}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:14px 0 0;font-size:14px}
a{color:var(--s0);text-decoration:none}a:hover{text-decoration:underline}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:12px;margin:18px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:9px;padding:12px 14px}
.tile b{display:block;font-size:23px;line-height:1.25;font-weight:650;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}.tile i{font-style:normal;color:var(--soft);font-size:13px;display:block}
table{border-collapse:collapse;font-size:14px;width:100%}
th,td{padding:5px 10px;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);white-space:nowrap}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.ours td{font-weight:650;background:color-mix(in srgb,var(--s0) 10%,transparent)}
tr.sum td{font-weight:650;border-top:2px solid var(--line)}
td.none{color:var(--soft);font-style:italic;text-align:left}
code,pre{font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
code{background:var(--grid);padding:1px 5px;border-radius:4px}pre{overflow-x:auto;margin:8px 0;white-space:pre}
details{margin:8px 0}summary{cursor:pointer;color:var(--s0)}
.plots{display:flex;flex-wrap:wrap;gap:12px 22px}svg{max-width:100%;height:auto;display:block}
svg text{font:11.5px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:var(--ink)}
svg .ax{fill:var(--soft)}svg .sm{font-size:9.5px}svg .hd{font-weight:600;font-size:12px}svg .lg{fill:var(--ink)}
svg .cv{fill:var(--on)}svg .cd{fill:var(--ink)}svg .cl{fill:var(--grid)}
svg .gr{stroke:var(--grid)}svg .tk,svg .fr{stroke:var(--soft)}
.good{color:var(--good)}.warn{color:var(--warn)}
@media print{section{break-inside:avoid}nav{display:none}}
"""
