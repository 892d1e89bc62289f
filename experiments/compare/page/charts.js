"use strict";
// Draws the chosen figure of each plot by plotly.js; the figures are made by charts.py.

const FIGURES = JSON.parse(document.getElementById("chart-data").textContent);
const OPTIONS = { responsive: true, displaylogo: false, showTips: false };
OPTIONS.modeBarButtons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]]; // others would send data to a server

for (const [plot, figures] of Object.entries(FIGURES)) {
  if (!figures.length) continue;
  const select = document.getElementById(`${plot}-choice`);
  const show = () => {
    const { data, layout, note } = figures[Number(select.value)];
    Plotly.react(plot, data, layout, OPTIONS);
    document.getElementById(`${plot}-note`).textContent = note;
  };
  select.addEventListener("change", show);
  show();
}
