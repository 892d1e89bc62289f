"use strict";
// Sorting: each column head is a button; rows without a value stay at the end, a second click turns the order.

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.querySelectorAll("th[data-column]")];
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.tagName === "TH" ? cell.dataset.text : cell.dataset.sort === "" ? null : Number(cell.dataset.sort);
  };
  const compare = (one, other) => (typeof one === "number" ? one - other : one.localeCompare(other, undefined, { numeric: true }));
  const sortBy = (head) => {
    const first = head.dataset.first;
    const second = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? second : first;
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    table.classList.add("sorted");
    const column = Number(head.dataset.column);
    const sign = order === "ascending" ? 1 : -1;
    const known = original.filter((row) => key(row, column) !== null);
    const unknown = original.filter((row) => key(row, column) === null);
    known.sort((one, other) => sign * compare(key(one, column), key(other, column)));
    body.append(...known, ...unknown);
  };
  for (const head of heads) head.querySelector("button").addEventListener("click", () => sortBy(head));
}
