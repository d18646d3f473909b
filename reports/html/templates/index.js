// Show the boards of one data set. The choice lives in the URL's hash: #<data set>
"use strict";
(() => {
  const inputs = [...document.querySelectorAll('#tabs input[name="data"]')];
  const rows = [...document.querySelectorAll("#boards tbody tr")];
  function show(name) {
    for (const input of inputs) input.checked = input.value === name;
    for (const row of rows) row.hidden = Boolean(name) && row.dataset.of !== name;
    document.getElementById("shown").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} boards shown`;
  }
  function read() {
    let name = "";
    try { name = decodeURIComponent(location.hash.slice(1)); } catch { /* a nonsense address shows all */ }
    show(inputs.some((input) => input.value === name) ? name : "");
  }
  for (const input of inputs) {
    input.addEventListener("change", () => {
      show(input.value);
      history.replaceState(null, "", input.value ? `#${encodeURIComponent(input.value)}` : location.pathname);
    });
  }
  window.addEventListener("hashchange", read);
  read();
})();
