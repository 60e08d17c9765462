"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const root = document.documentElement;
  const probe = document.getElementById("probe");
  const coarse = matchMedia("(pointer: coarse)").matches;
  const config = { displayModeBar: false, displaylogo: false, responsive: true, doubleClick: "reset", doubleClickDelay: 500 };

  // "$bid" stands for the colour --bid of the theme in force.
  const color = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const themed = (value, seen) => {
    if (typeof value === "string") {
      if (value[0] !== "$") return value;
      const name = value.slice(1);
      return (seen[name] ??= color(name));
    }
    if (Array.isArray(value)) return value.map((item) => themed(item, seen));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item, seen)]));
    }
    return value;
  };
  const merged = (base, more) => {
    const out = { ...base };
    for (const [key, value] of Object.entries(more)) {
      const both = value && out[key] && typeof value === "object" && typeof out[key] === "object";
      out[key] = both && !Array.isArray(value) ? merged(out[key], value) : value;
    }
    return out;
  };
  const axis = {
    gridcolor: "$grid", linecolor: "$line", zerolinecolor: "$line", tickcolor: "$line", ticks: "outside",
    ticklen: 4, title: { standoff: 8, font: { size: 11.5 } }, automargin: true, fixedrange: coarse,
  };
  const frame = {
    autosize: true,
    margin: { l: 48, r: 14, t: 10, b: 40 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "$soft-ink" },
    hoverlabel: { bgcolor: "$card", bordercolor: "$line", font: { color: "$ink", size: 12 } },
    legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
    dragmode: coarse ? false : "zoom",
    xaxis: { ...axis, showgrid: false, zeroline: false, showline: true, tickangle: 0, nticks: innerWidth < 500 ? 4 : 6 },
    yaxis: { ...axis, zeroline: true, fixedrange: true, nticks: 6 },
  };

  // On a narrow screen the legend has a line for each name: the chart grows by as much.
  const fit = (box, figure) => {
    box.dataset.height ??= box.style.height;
    box.style.height = box.dataset.height;
    if (!figure.layout.showlegend || box.clientWidth > 500) return;
    const names = new Set(figure.data.filter((trace) => trace.showlegend !== false).map((trace) => trace.name));
    if (names.size > 2) box.style.height = `${box.clientHeight + 19 * (names.size - 2)}px`;
  };

  const drawn = new Map();
  const draw = (box, figure) => {
    const seen = {};
    fit(box, figure);
    const more = Object.keys(figure.layout).filter((key) => /^yaxis\d/.test(key));
    const base = { ...frame, ...Object.fromEntries(more.map((key) => [key, frame.yaxis])) };
    const layout = themed(merged(base, figure.layout), seen);
    layout.margin.t = figure.layout.showlegend ? 30 : 10;
    if (root.classList.contains("paper")) {
      Object.assign(layout, { autosize: false, width: box.clientWidth, height: box.clientHeight });
    }
    drawn.set(box, figure);
    // Plotly unpacks typed arrays in place: it gets a copy of the traces each time.
    return Plotly.react(box, themed(figure.data, seen), layout, config);
  };
  const redraw = () => drawn.forEach((figure, box) => draw(box, figure));

  for (const [name, figure] of Object.entries(report.charts)) draw(document.getElementById(`chart-${name}`), figure);

  // The market: one set of boxes, filled for the chosen instrument; all share one time axis.
  const select = document.getElementById("instrument");
  const slots = [...document.querySelectorAll("[data-slot]")];
  let following = false;
  const follow = (source, change) => {
    const range = change["xaxis.range"] ?? [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    const reset = "xaxis.autorange" in change;
    if (following || (!reset && range[0] === undefined)) return;
    following = true;
    const update = reset ? { "xaxis.autorange": true } : { "xaxis.range": [...range] };
    const others = slots.filter((slot) => !slot.hidden).map((slot) => slot.querySelector(".chart"));
    Promise.all(others.filter((box) => box !== source).map((box) => Plotly.relayout(box, update)))
      .finally(() => { following = false; });
  };
  const choose = (index) => {
    const charts = report.market[index];
    for (const slot of slots) {
      const chart = charts[slot.dataset.slot];
      const box = slot.querySelector(".chart");
      slot.hidden = !chart;
      if (!chart) { drawn.delete(box); continue; }
      slot.querySelector("h3").textContent = chart.title;
      slot.querySelector("figcaption").textContent = chart.caption;
      const fresh = !box.on;
      draw(box, chart);
      if (fresh) box.on("plotly_relayout", (change) => follow(box, change));
    }
    for (const part of document.querySelectorAll("[data-instrument]")) {
      part.hidden = part.dataset.instrument !== String(index);
    }
  };
  if (select) {
    select.addEventListener("change", () => choose(Number(select.value)));
    select.value = "0";
    choose(0);
  }

  // The theme: as the system has it, until the reader chooses.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const toggle = document.getElementById("theme");
  const current = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const label = () => {
    const other = current() === "dark" ? "light" : "dark";
    toggle.textContent = other === "dark" ? "Dark" : "Light";
    toggle.setAttribute("aria-label", `Switch to the ${other} theme`);
  };
  toggle.addEventListener("click", () => {
    root.dataset.theme = current() === "dark" ? "light" : "dark";
    try { localStorage.setItem("tickworks-theme", root.dataset.theme); } catch (error) { root.dataset.storage = "none"; }
    label();
    redraw();
  });
  dark.addEventListener("change", () => { label(); redraw(); });
  label();

  // On paper: light, and as wide as the page. The class sets the sizes before the printer's own rules do.
  const paper = (on) => {
    root.classList.toggle("paper", on);
    redraw();
    if (!on) drawn.forEach((figure, box) => Plotly.Plots.resize(box));
  };
  addEventListener("beforeprint", () => paper(true));
  addEventListener("afterprint", () => paper(false));
})();
