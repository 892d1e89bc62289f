"use strict";
// Two plots by plotly.js, in the colours of the page; drawn anew when the system turns dark or light.

const DATA = JSON.parse(document.getElementById("chart-data").textContent);
const COLOURS = ["#3b82d6", "#e07b1f", "#2f9e5f", "#c9487c", "#8a63d2", "#b08a1e", "#1fa3a8", "#d2493f", "#7a8794"];
const DASHES = ["solid", "dot", "dash", "dashdot", "longdash"];
const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "x"];
const TICKS = [-6, -5, -4, -3, -2, -1, 0, 1, 2, 3].flatMap((power) => [1, 2, 5].map((n) => Number(`${n}e${power}`)));
const dark = matchMedia("(prefers-color-scheme: dark)");

// plotly.js reads a subset of HTML in all texts: names are shown as they are.
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const colour = (method) => COLOURS[method % COLOURS.length];

function layout(across, down, more = {}) {
  const style = getComputedStyle(document.documentElement);
  const [ink, line, soft] = ["--ink", "--line", "--soft"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, family: "system-ui, sans-serif", size: 13 },
    margin: { l: 56, r: 16, t: 12, b: 48 },
    height: 420,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    showlegend: true,
    hoverlabel: { namelength: -1 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: ink },
    ...more,
    xaxis: { ...axis, title: { text: plain(across) }, ...more.xaxis },
    yaxis: { ...axis, title: { text: plain(down) }, ...more.yaxis },
  };
}

function draw(id, traces, settings) {
  const place = document.getElementById(id);
  const options = { responsive: true, displaylogo: false, showTips: false };
  options.modeBarButtons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]]; // others would send data to a server
  return Plotly.react(place, traces, settings, options);
}

function drawCurves(entry) {
  const traces = entry.lines.map((line) => ({
    type: "scatter",
    mode: line.x.length > 1 ? "lines" : "markers",
    name: plain(line.name),
    x: line.x,
    y: line.y,
    line: { color: colour(line.method), dash: DASHES[line.seed % DASHES.length], width: 2 },
    hovertemplate: "%{y:.5~g}<extra>%{fullData.name}</extra>",
  }));
  return draw("curves", traces, layout("training step", entry.title, { hovermode: "x unified" }));
}

function drawSpeed(entry) {
  const devices = [...new Set(entry.points.map((point) => point.device))];
  const most = Math.max(1, ...entry.points.map((point) => point.parameters || 0));
  const traces = entry.points.map((point) => ({
    type: "scatter",
    mode: "markers+text",
    name: plain(point.name),
    x: [point.seconds],
    y: [point.psnr],
    text: [plain(point.name)],
    textposition: "top center",
    cliponaxis: false,
    marker: {
      // The area is the number of parameters; the smallest stay visible.
      size: Math.max(9, 44 * Math.sqrt((point.parameters || 0) / most)),
      color: colour(point.method),
      opacity: 0.75,
      symbol: SYMBOLS[devices.indexOf(point.device) % SYMBOLS.length],
    },
    hovertemplate: `${plain(point.time)} s / image<br>%{y:.2f} dB<br>${plain(point.size)} parameters<br>${plain(point.device)}<extra>${plain(point.name)}</extra>`,
  }));
  const more = { xaxis: { type: "log", tickvals: TICKS, ticktext: TICKS.map(String) }, shapes: [], annotations: [], showlegend: false };
  const values = entry.points.map((point) => Math.log10(point.seconds));
  more.xaxis.range = [Math.min(...values) - 0.4, Math.max(...values) + 0.4];
  const heights = entry.points.map((point) => point.psnr);
  if (entry.baseline) {
    const grey = colour(8);
    const [y, yref, xref] = [entry.baseline.psnr, "y", "paper"];
    heights.push(y);
    more.shapes.push({ type: "line", x0: 0, x1: 1, y0: y, y1: y, xref, yref, line: { color: grey, dash: "dot" } });
    const text = `${plain(entry.baseline.name)} ${y.toFixed(2)} dB`;
    more.annotations.push({ x: 0, y, xref, yref, text, showarrow: false, xanchor: "left", yanchor: "bottom" });
  }
  const [low, high] = [Math.min(...heights), Math.max(...heights)];
  const room = Math.max(0.1, 0.2 * (high - low));
  more.yaxis = { range: [low - room, high + room] };
  const notes = [`Time on ${devices.join("; ")}.`];
  if (devices.length > 1) notes.push("Times of different devices (different symbols) cannot be compared.");
  document.getElementById("speed-note").textContent = notes.join(" ");
  return draw("speed", traces, layout("seconds per image (logarithmic)", entry.axis, more));
}

function connect(entries, select, show) {
  const element = document.getElementById(select);
  if (!element) return;
  const chosen = () => show(entries[Number(element.value)]);
  element.addEventListener("change", chosen);
  dark.addEventListener("change", chosen);
  chosen();
}

connect(DATA.curves, "curves-metric", drawCurves);
connect(DATA.speed, "speed-benchmark", drawSpeed);
