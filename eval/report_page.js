"use strict";
// A pair is shown where it has every value that is checked; a filter group is one data attribute.
const filters = document.querySelector(".filters");
if (filters) {
  const pairs = [...document.querySelectorAll(".pair")];
  const count = document.getElementById("count");
  const nothing = document.querySelector(".nothing");
  const apply = () => {
    const wanted = [...filters.querySelectorAll("input:checked")].filter((input) => input.value !== "");
    let shown = 0;
    for (const pair of pairs) {
      pair.hidden = !wanted.every((input) => pair.getAttribute("data-" + input.name).split(" ").includes(input.value));
      shown += !pair.hidden;
    }
    count.textContent = shown + " of " + pairs.length + " pairs";
    nothing.hidden = shown > 0;
  };
  filters.addEventListener("change", apply);
  document.getElementById("show-all").addEventListener("click", () => {
    filters.reset();
    apply();
  });
  apply(); // a reloaded page keeps what was checked
}
