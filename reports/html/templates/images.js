// What one defense keeps and another loses, image by image. The pair lives in the URL's hash: #images:<A>:<B>
(() => {
  const source = document.getElementById("pair-data");
  if (!source) return;
  const $ = (id) => document.getElementById(id);
  let data;
  let by;
  const most = 60; // cards of one list

  function node(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text) made.textContent = text;
    return made;
  }

  function tile([x, y], words) {
    const made = node("span", "tile");
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", words);
    made.style.setProperty("--x", x);
    made.style.setProperty("--y", y);
    return made;
  }

  // Places of the images on which more of a's seeds are right than of b's
  function kept(a, b) {
    const share = (d, k) => parseInt(d.right[k], 36) / d.seeds;
    return data.index.map((_, k) => k).filter((k) => share(a, k) > share(b, k));
  }

  function card(k, loser) {
    const [seed, stage, given, size, change, gain] = loser.lost[k] || [];
    const made = node("li", "card");
    const pictures = node("span", "strip");
    if (data.clean[k]) pictures.append(tile(data.clean[k], `Image ${data.index[k]}, ${data.label[k]}`));
    if (change) pictures.append(tile(change, `The change for ${loser.name}, amplified ${gain} times`));
    const words = node("span", "strip-words");
    words.append(node("strong", "", given ? `${data.label[k]} → ${given}` : data.label[k]), node("br"));
    words.append(stage === "clean" ? "wrong without a change" : stage ? `by ${stage}` : "lost", node("br"));
    if (size) words.append(`at ${size} (${data.norm})`, node("br"));
    const quiet = node("span", "quiet", `image ${data.index[k]}`);
    if (loser.seeds > 1 && seed !== undefined) quiet.append(`, seed ${seed}`);
    words.append(quiet);
    made.append(pictures, words);
    return made;
  }

  function list(side, winner, loser, stage) {
    const all = kept(winner, loser);
    const fit = stage ? all.filter((k) => (loser.lost[k] || [])[1] === stage) : all;
    const shown = [...fit].sort((j, k) => Boolean((loser.lost[k] || [])[4]) - Boolean((loser.lost[j] || [])[4]) || j - k);
    $(`pair-${side}-title`).textContent = `${winner.name} keeps, ${loser.name} loses: ${fit.length}${fit.length < all.length ? ` of ${all.length}` : ""}`;
    $(`pair-${side}`).replaceChildren(...shown.slice(0, most).map((k) => card(k, loser)));
    const rest = shown.slice(most).map((k) => data.index[k]);
    $(`pair-${side}-rest`).textContent = rest.length ? `And images ${rest.join(", ")}.` : "";
  }

  function stages(a, b) {
    const found = [[a, b], [b, a]].flatMap(([winner, loser]) => kept(winner, loser).map((k) => (loser.lost[k] || [])[1]));
    const before = $("pair-stage").value;
    const names = [...new Set(found.filter(Boolean))].sort();
    $("pair-stage").replaceChildren(...["", ...names].map((name) => {
      const option = node("option", "", name || "any stage");
      option.value = name;
      return option;
    }));
    $("pair-stage").value = names.includes(before) ? before : "";
  }

  async function ready() {
    data = await unpack(source);
    by ??= new Map(data.defenses.map((d) => [d.name, d]));
  }

  async function show() {
    await ready();
    const [a, b] = ["pair-a", "pair-b"].map((id) => by.get($(id).value));
    stages(a, b);
    list("keeps", a, b, $("pair-stage").value);
    list("loses", b, a, $("pair-stage").value);
  }

  function write() {
    const query = location.hash.split("?")[1];
    const pair = ["pair-a", "pair-b"].map((id) => encodeURIComponent($(id).value)).join(":");
    history.replaceState(null, "", `#images:${pair}${query ? `?${query}` : ""}`);
  }

  async function choose(a, b) {
    await ready();
    if (!by.has(a) || !by.has(b)) return false;
    $("pair-a").value = a;
    $("pair-b").value = b;
    $("pair-stage").value = "";
    await show();
    return true;
  }

  async function read() {
    const [name, a, b] = location.hash.slice(1).split("?")[0].split(":");
    let pair;
    try { pair = [decodeURIComponent(a || ""), decodeURIComponent(b || "")]; } catch { return; }
    if (name !== "images" || !pair[1] || !(await choose(...pair))) return;
    $("images").open = true;
    $("images").scrollIntoView();
  }

  for (const id of ["pair-a", "pair-b"]) $(id).addEventListener("change", () => { show(); write(); });
  $("pair-stage").addEventListener("change", show);
  $("pair-swap").addEventListener("click", async () => { if (await choose($("pair-b").value, $("pair-a").value)) write(); });
  $("pair").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-keeps]");
    if (link && (await choose(link.dataset.keeps, link.dataset.loses))) write();
  });
  for (const name of ["hashchange", "popstate"]) window.addEventListener(name, read);
  $("images").addEventListener("toggle", () => { if ($("images").open) show(); });
  read();
})();
