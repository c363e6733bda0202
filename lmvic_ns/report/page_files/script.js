for (const range of document.querySelectorAll(".card input[type=range]"))
  range.addEventListener("input", () => range.closest(".card").querySelector(".compare").style.setProperty("--cut", range.value + "%"));
const table = document.getElementById("views"), body = table.tBodies[0];
for (const head of table.tHead.rows[0].cells) {
  const button = head.querySelector("button");
  if (!button) continue;
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => row.cells[head.cellIndex].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a), y = value(b);
      const order = head.classList.contains("text") ? x.localeCompare(y, undefined, {numeric: true}) : Number(x) - Number(y);
      return up ? order : -order;
    });
    body.append(...rows);
  });
}
const filter = document.getElementById("filter"), shown = document.getElementById("shown");
filter.addEventListener("input", () => {
  const wanted = filter.value.trim().toLowerCase();
  let count = 0;
  for (const row of body.rows) {
    row.hidden = !row.dataset.name.includes(wanted);
    count += !row.hidden;
  }
  shown.textContent = count + " of " + body.rows.length;
});
