"use strict";
(() => {
  const base = {
    font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", size: 12, color: "#1d2430" },
    margin: { l: 48, r: 12, t: 26, b: 38 },
    paper_bgcolor: "#fff",
    plot_bgcolor: "#fff",
    colorway: ["#2f6f9f", "#d08c2f", "#3a923a", "#b03a3a", "#7a5fa8", "#5b6675", "#2a9d9d", "#c4588f", "#8a6d3b"],
    hovermode: "closest",
    hoverlabel: { align: "left" },
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1, yref: "container", yanchor: "top" },
  };
  const widths = { third: 220, half: 335, wide: 700 }; // on paper
  const axis = { gridcolor: "#edf0f3", linecolor: "#c9d0d8", zeroline: false, automargin: true, exponentformat: "power" };
  const options = {
    responsive: true,
    displaylogo: false,
    displayModeBar: false, // one of its buttons would leave the page
    showSendToCloud: false,
    plotlyServerURL: "",
  };
  const drawn = [];
  for (const place of document.querySelectorAll("div.plot")) {
    try {
      const { data, layout } = JSON.parse(place.nextElementSibling.textContent);
      const merged = { ...base, ...layout };
      for (const name of ["xaxis", "yaxis"]) merged[name] = { ...axis, ...layout[name] };
      merged.margin = { ...base.margin, ...layout.margin };
      Plotly.newPlot(place, data, merged, options);
      drawn.push(place);
    } catch (error) {
      place.textContent = "This plot could not be drawn: " + error;
      console.error(error);
    }
  }
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const each of folded) each.open = true;
    for (const place of drawn) Plotly.relayout(place, { width: widths[place.dataset.size] });
  });
  window.addEventListener("afterprint", () => {
    for (const each of folded) each.open = false;
    for (const place of drawn) Plotly.relayout(place, { width: null, autosize: true });
  });
})();
