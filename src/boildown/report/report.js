"use strict";
// Moves the points of the chart to the axes that were chosen, and tells about the one that is looked at.
(() => {
  const opened = [];
  addEventListener("beforeprint", () => {
    for (const closed of document.querySelectorAll("details:not([open])")) {
      closed.open = true;
      opened.push(closed);
    }
  });
  addEventListener("afterprint", () => { for (const details of opened.splice(0)) details.open = false; });

  const source = document.getElementById("chart-data");
  if (!source) return;
  const { plot, shown, points, scales } = JSON.parse(source.textContent);
  const [left, top, width, height] = plot;
  const chart = document.getElementById("chart");
  const tip = document.getElementById("tip");
  const choice = { x: document.getElementById("x-axis"), y: document.getElementById("y-axis") };
  const methods = [...document.querySelectorAll("input[name=method]")];
  const across = (at) => left + width * at;
  const down = (at) => top + height * (1 - at);
  const one = (selector) => chart.querySelector(selector);

  function element(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function ticks(scale, upward) {
    return scale.ticks.flatMap(([at, text]) => upward
      ? [element("line", { class: "grid", x1: left, x2: left + width, y1: down(at), y2: down(at) }),
        element("text", { x: left - 8, y: down(at) + 4, "text-anchor": "end" }, text)]
      : [element("line", { class: "grid", x1: across(at), x2: across(at), y1: top, y2: top + height }),
        element("text", { x: across(at), y: top + height + 18, "text-anchor": "middle" }, text)]);
  }

  function front(places) {
    const kept = [];
    for (const [x, y] of places.sort((a, b) => a[0] - b[0] || a[1] - b[1]))
      if (!kept.length || y < kept[kept.length - 1][1]) kept.push([x, y]);
    if (kept.length < 2) return "";
    return kept.map(([x, y], n) => n ? `H${across(x)}V${down(y)}` : `M${across(x)} ${down(y)}`).join("");
  }

  const visible = (n) => !points[n][3].length || !methods.length || points[n][3].some(
    (method) => methods.some((box) => box.value === method && box.checked));

  function draw() {
    const x = scales[choice.x.value], y = scales[choice.y.value];
    one(".ticks").replaceChildren(...ticks(y, true), ...ticks(x, false));
    one(".x-label").textContent = x.label;
    one(".y-label").textContent = y.label;
    const right = x.bound === null ? 1 : x.bound, upper = y.bound === null ? 1 : y.bound;
    const region = one(".region");
    region.style.display = x.bound === null && y.bound === null ? "none" : "";
    for (const [name, value] of Object.entries({
      x: left, y: down(upper), width: width * right, height: height * upper })) region.setAttribute(name, value);
    for (const [name, at] of [["x", across(x.zero)], ["y", down(y.zero)]])
      for (const end of ["1", "2"]) one(`.zero.${name}`).setAttribute(name + end, at);
    const places = [];
    let count = 0;
    for (const point of chart.querySelectorAll(".point")) {
      const n = Number(point.dataset.n), at = [x.places[n], y.places[n]];
      const there = at[0] !== null && at[1] !== null && visible(n);
      point.classList.toggle("away", !there);
      if (!there) continue;
      count += 1;
      places.push(at);
      point.classList.toggle("beyond", Boolean(x.beyond[n] || y.beyond[n]));
      point.style.transform = `translate(${across(at[0])}px, ${down(at[1])}px)`;
    }
    one(".front").setAttribute("d", front(places));
    document.getElementById("count").textContent = `${count} of ${points.length} attempts shown`;
    tip.hidden = true;
  }

  function tell(point) {
    const n = Number(point.dataset.n), [, name, state] = points[n];
    const title = document.createElement("b"), list = document.createElement("dl");
    title.textContent = name;
    for (const [key, value] of [["verdict", state], ...scales.map((scale) => [scale.name, scale.words[n]])]) {
      if (!value) continue;
      for (const [tag, text] of [["dt", key], ["dd", value]])
        list.appendChild(document.createElement(tag)).textContent = text;
    }
    tip.replaceChildren(title, list);
    tip.hidden = false;
    const box = point.querySelector(".dot, .arrow").parentNode.getBoundingClientRect();
    const frame = tip.parentNode.getBoundingClientRect();
    const beside = box.right - frame.left + 8;
    const fits = beside + tip.offsetWidth <= frame.width;
    tip.style.left = `${Math.max(0, fits ? beside : box.left - frame.left - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.max(0, box.top - frame.top - tip.offsetHeight / 2)}px`;
  }

  let leaving;
  const stay = () => clearTimeout(leaving);
  const leave = () => { stay(); leaving = setTimeout(() => { tip.hidden = true; }, 250); };
  for (const point of chart.querySelectorAll(".point")) {
    point.querySelector("title")?.remove();
    for (const kind of ["mouseenter", "focus"]) point.addEventListener(kind, () => { stay(); tell(point); });
    for (const kind of ["mouseleave", "blur"]) point.addEventListener(kind, leave);
  }
  tip.addEventListener("mouseenter", stay);
  tip.addEventListener("mouseleave", leave);
  addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
  for (const input of [choice.x, choice.y, ...methods]) input.addEventListener("change", draw);
  [choice.x.value, choice.y.value] = shown;
  for (const box of methods) box.checked = true;
  document.getElementById("controls").hidden = false;
  draw();
})();
