"use strict";
(() => {
  const tip = document.getElementById("tip");

  // Numbers are read back from the drawing: pixel -> value by the axis that the chart states.
  const axis = (text) => {
    const [low, high, start, length, log] = text.split(" ").map(Number);
    return (pixel) => {
      const share = (pixel - start) / length;
      return log ? low * Math.pow(high / low, share) : low + share * (high - low);
    };
  };
  const shown = (value) => {
    const text = Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3)
      ? value.toExponential(2) : String(Number(value.toPrecision(4)));
    return text.replace("-", "\u2212");
  };
  const labelled = (label, value) => {
    const unit = /\(([^()]*)\)\s*$/.exec(label);
    return unit ? `${shown(value)} ${unit[1]}` : `${label} ${shown(value)}`;
  };
  const pointsOf = (svg) => [...svg.querySelectorAll("[data-name]")].flatMap((path) =>
    [...path.getAttribute("d").matchAll(/[ML](-?[\d.]+) (-?[\d.]+)/g)].map((m) => ({
      name: path.dataset.name, x: Number(m[1]), y: Number(m[2]),
    })));

  for (const svg of document.querySelectorAll("svg.chart")) {
    const [xLabel, yLabel] = svg.dataset.labels.split("|");
    const x = axis(svg.dataset.x), y = svg.dataset.y ? axis(svg.dataset.y) : null;
    let points = null;
    svg.addEventListener("pointermove", (event) => {
      points = points || pointsOf(svg);
      const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
      const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
      let best = null, least = 26 * 26;
      for (const point of points) {
        const far = (point.x - px) ** 2 + (point.y - py) ** 2;
        if (far < least) { least = far; best = point; }
      }
      tip.hidden = !best;
      if (!best) return;
      tip.textContent = best.name + "\n" + labelled(xLabel, x(best.x)) +
        (y ? "\n" + labelled(yLabel, y(best.y)) : "");
      const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
      tip.style.left = `${left}px`;
      tip.style.top = `${event.clientY + 16}px`;
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      head.addEventListener("click", () => {
        const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        const key = (row) => {
          const cell = row.cells[column], value = cell.dataset.value;
          return value === undefined ? (cell.textContent.trim() === "–" ? null : cell.textContent)
            : (value !== "" && !isNaN(value) ? Number(value) : value);
        };
        const order = (a, b) => {
          const p = key(a), q = key(b);
          if (p === null || q === null) return (p === null) - (q === null);
          return sign * (typeof p === "number" && typeof q === "number"
            ? p - q : String(p).localeCompare(String(q)));
        };
        [...table.tBodies[0].rows].sort(order).forEach((row) => table.tBodies[0].append(row));
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      });
    });
  }
})();
