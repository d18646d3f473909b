// Data of the page: JSON as it stands, or, on a large board, deflated and in base64. Unfolded once, when asked for.
"use strict";
const unpack = (() => {
  const known = new Map();
  async function read(script) {
    if (!script.hasAttribute("data-packed")) return JSON.parse(script.textContent);
    const bytes = Uint8Array.from(atob(script.textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return JSON.parse(await new Response(stream).text());
  }
  return (script) => {
    if (!known.has(script)) known.set(script, read(script));
    return known.get(script);
  };
})();

// What a closed section holds is put into it when it is opened, or when something in it is linked to.
async function fill(part) {
  const parts = await unpack(document.getElementById("parts"));
  if (!part.dataset.part) return;
  part.innerHTML = parts[Number(part.dataset.part)]; // escaped by the template, as all of the page
  part.removeAttribute("data-part");
}
document.addEventListener("toggle", (event) => {
  const part = event.target.open && event.target.querySelector?.(":scope > [data-part]");
  if (part) fill(part);
}, true);

// The pairs of one defense at a time.
(() => {
  const source = document.getElementById("pairs-data");
  if (!source) return;
  const choice = document.getElementById("pairs-of");
  const body = document.querySelector("#pairs tbody");

  function cell(text, number) {
    const made = document.createElement("td");
    if (number) made.className = "num";
    made.append(text);
    return made;
  }

  function link(keeps, loses, images) {
    if (!images) return "0";
    const made = document.createElement("a");
    made.href = "#images";
    made.dataset.keeps = keeps;
    made.dataset.loses = loses;
    made.textContent = images;
    made.setAttribute("aria-label", `${images} image${images === 1 ? "" : "s"} that ${keeps} keeps and ${loses} loses`);
    return made;
  }

  async function show() {
    const { names, pairs } = await unpack(source);
    const mine = names.indexOf(choice.value);
    body.replaceChildren(...pairs.filter(([i, j]) => i === mine || j === mine).map((pair) => {
      const [i, j, difference, interval, onlyA, onlyB, p, verdict] = pair;
      const [a, b] = [names[i], names[j]];
      const row = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = a;
      row.append(head, cell(b), cell(difference, true), cell(interval, true), cell(link(a, b, onlyA), true),
        cell(link(b, a, onlyB), true), cell(p, true), cell(verdict));
      return row;
    }));
  }

  document.getElementById("pairs").addEventListener("toggle", (event) => { if (event.target.open) show(); });
  choice.addEventListener("change", show);
})();
