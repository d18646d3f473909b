// Sort, filter, choose columns, link to rows, switch the theme. The state lives in the URL's hash:
// #<anchor>?q=…&trust=…&origin=…&first=1&sort=<column>:<asc|desc>&view=<preset> or &columns=<a,b,c>
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const table = $("#ranking");
  const bodies = [...table.tBodies]; // the ranked rows, then those that are upper bounds only
  const rowsOf = (body) => [...body.rows].filter((row) => row.id);
  const rows = bodies.flatMap(rowsOf);
  const heads = $$("thead th", table);
  const boxes = $$("#columns input");
  const box = table.closest(".scroll");
  const views = $$("#presets input");
  const columnsOf = (view) => boxes.map((b) => b.value).filter((c) => view.dataset.columns.split(",").includes(c));
  const shownAtFirst = columnsOf(views[0]);
  const viewOf = (columns) => views.find((v) => columnsOf(v).join() === columns.join());
  const first = { q: "", trust: "", origin: "", first: false, sort: "rank:asc", columns: shownAtFirst };
  let state = { ...first };
  const say = (text) => { $("#status").textContent = text; };

  // State and hash

  function address() {
    try { return decodeURI(location.hash.slice(1)); } catch { return ""; }
  }

  function read() {
    const [anchor, query = ""] = address().split("?");
    const given = new URLSearchParams(query);
    const names = heads.map((h) => h.dataset.column);
    const [column, way] = (given.get("sort") || first.sort).split(":");
    const view = views.find((v) => v.value === given.get("view"));
    state = {
      q: given.get("q") || "",
      trust: given.get("trust") || "",
      origin: given.get("origin") || "",
      first: given.get("first") === "1",
      sort: names.includes(column) ? `${column}:${way === "desc" ? "desc" : "asc"}` : first.sort,
      columns: given.has("columns") ? given.get("columns").split(",").filter((c) => names.includes(c))
        : view ? columnsOf(view) : first.columns,
    };
    return anchor;
  }

  function write() {
    const query = new URLSearchParams();
    for (const key of ["q", "trust", "origin"]) if (state[key]) query.set(key, state[key]);
    if (state.first) query.set("first", "1");
    if (state.sort !== first.sort) query.set("sort", state.sort);
    const view = viewOf(state.columns);
    if (!view) query.set("columns", state.columns.join(","));
    else if (view !== views[0]) query.set("view", view.value);
    const text = query.toString();
    const anchor = address().split("?")[0];
    history.replaceState(null, "", text ? `#${anchor}?${text}` : `#${anchor}`);
  }

  function show() {
    const needle = state.q.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      const fits = `${row.dataset.name} ${row.dataset.words}`.toLowerCase().includes(needle)
        && (!state.trust || row.dataset.trust === state.trust)
        && (!state.origin || row.dataset.origin === state.origin)
        && (!state.first || row.dataset.first === "yes");
      row.hidden = !fits;
      count += fits;
    }
    for (const cell of $$("[data-column]", table)) {
      const fixed = ["rank", "defense"].includes(cell.dataset.column);
      cell.hidden = !fixed && !state.columns.includes(cell.dataset.column);
    }
    sort();
    $("#empty").hidden = count > 0;
    $("#search").value = state.q;
    $("#filter-trust").value = state.trust;
    $("#filter-origin").value = state.origin;
    $("#filter-first").checked = state.first;
    for (const one of boxes) one.checked = state.columns.includes(one.value);
    for (const view of views) view.checked = view === viewOf(state.columns);
    $("#reset").hidden = JSON.stringify(state) === JSON.stringify(first);
    fit();
    return count;
  }

  // Where the table is not wider than the page its head sticks to the window, else to the table's own box.
  function fit() {
    box.classList.remove("fits");
    const fits = table.scrollWidth <= box.clientWidth;
    box.classList.toggle("fits", fits);
    if (fits) box.removeAttribute("tabindex"); else box.tabIndex = 0;
  }

  function sort() {
    const [column, way] = state.sort.split(":");
    const sign = way === "asc" ? 1 : -1;
    const key = (row) => $(`[data-column="${CSS.escape(column)}"]`, row).dataset.sort;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const [u, v] = [Number(x), Number(y)];
      return sign * (Number.isNaN(u) || Number.isNaN(v) ? x.localeCompare(y, "en") : u - v);
    };
    for (const body of bodies) {
      const own = rowsOf(body);
      body.append(...own.toSorted(compare));
      body.hidden = !own.some((row) => !row.hidden);
    }
    for (const head of heads) {
      if (head.dataset.column === column) head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
  }

  function change(update) {
    Object.assign(state, update);
    write();
    const count = show();
    say(`${count} of ${rows.length} rows shown`);
  }

  // Anchors: a link into a closed section opens it

  async function go(anchor) {
    for (const old of $$(".target")) old.classList.remove("target");
    const part = anchor && $(`[data-part][data-holds~="${CSS.escape(anchor)}"]`);
    if (part) await fill(part);
    const target = anchor && document.getElementById(anchor);
    if (!target) return;
    for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
    if (target.matches("tr, li")) { target.hidden = target.parentElement.hidden = false; target.classList.add("target"); }
    target.scrollIntoView({ block: target.matches("tr") ? "center" : "start" });
  }

  for (const head of heads) {
    $(".sort", head).addEventListener("click", () => {
      const [column, way] = state.sort.split(":");
      const name = head.dataset.column;
      const best = head.dataset.direction === "higher" ? "desc" : "asc";
      const next = column === name ? (way === "asc" ? "desc" : "asc") : best;
      change({ sort: `${name}:${next}` });
      say(`Sorted by ${$(".sort", head).textContent}, ${next === "asc" ? "ascending" : "descending"}`);
    });
  }
  $("#controls").addEventListener("submit", (event) => event.preventDefault());
  $("#search").addEventListener("input", (event) => change({ q: event.target.value }));
  $("#filter-trust").addEventListener("change", (event) => change({ trust: event.target.value }));
  $("#filter-origin").addEventListener("change", (event) => change({ origin: event.target.value }));
  $("#filter-first").addEventListener("change", (event) => change({ first: event.target.checked }));
  for (const one of boxes) {
    one.addEventListener("change", () => change({ columns: boxes.filter((b) => b.checked).map((b) => b.value) }));
  }
  for (const view of views) view.addEventListener("change", () => change({ columns: columnsOf(view) }));
  addEventListener("resize", fit);
  for (const id of ["#reset", "#empty-reset"]) $(id).addEventListener("click", () => change({ ...first }));
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    const query = location.hash.split("?")[1];
    history.pushState(null, "", link.getAttribute("href") + (query ? `?${query}` : ""));
    go(link.getAttribute("href").slice(1));
  });
  for (const name of ["hashchange", "popstate"]) {
    window.addEventListener(name, () => { const anchor = read(); show(); go(anchor); });
  }

  // Theme

  const root = document.documentElement;
  const night = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const store = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("theme", value); } catch { /* a page from disk may have none */ } } };
  function theme(value) {
    if (value === "light" || value === "dark") root.dataset.theme = value;
    $("#theme").setAttribute("aria-pressed", String(night()));
  }
  $("#theme").addEventListener("click", () => { const value = night() ? "light" : "dark"; theme(value); store.set(value); });
  theme(store.get());

  // Copy

  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    try { await navigator.clipboard.writeText(button.dataset.copy); } catch { getSelection().selectAllChildren($("code", button.parentElement)); return; }
    button.textContent = "Copied";
    say("Copied");
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  // Downloads: the texts are in the page

  for (const button of $$(".download")) {
    button.addEventListener("click", async () => {
      const text = await unpack($(`script[data-of="${CSS.escape(button.dataset.file)}"]`));
      const link = document.createElement("a");
      const data = button.dataset.binary ? Uint8Array.from(atob(text), (c) => c.charCodeAt(0)) : text;
      link.href = URL.createObjectURL(new Blob([data], { type: button.dataset.kind }));
      link.download = button.dataset.file;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
  }

  // Pointing at a defense brings it out in every figure

  let bright = "";
  function bring(anchor) {
    if (anchor === bright) return;
    bright = anchor;
    for (const figure of $$("figure")) {
      figure.classList.toggle("faded", Boolean(anchor));
      for (const node of $$("[data-series]", figure)) node.classList.toggle("bright", node.dataset.series === anchor);
    }
  }
  document.addEventListener("pointerover", (event) => {
    const series = event.target.closest?.("figure [data-series], #ranking tr[id]");
    bring(series ? series.dataset.series || series.id.slice(4) : "");
  });

  // Tooltips

  const tip = $("#tooltip");
  function showTip(event) {
    const source = event.target.closest?.("[data-tip]");
    if (!source) return;
    tip.textContent = source.dataset.tip;
    tip.hidden = false;
    source.setAttribute("aria-describedby", "tooltip");
    const place = source.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(place.left, innerWidth - tip.offsetWidth - 8))}px`;
    const above = place.top - tip.offsetHeight - 6;
    tip.style.top = `${above > 8 ? above : place.bottom + 6}px`;
  }
  function hideTip() {
    tip.hidden = true;
    for (const source of $$('[aria-describedby="tooltip"]')) source.removeAttribute("aria-describedby");
  }
  document.addEventListener("pointerover", showTip);
  document.addEventListener("focusin", showTip);
  document.addEventListener("pointerout", hideTip);
  document.addEventListener("focusout", hideTip);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

  const anchor = read();
  show();
  go(anchor);
})();
