"use strict";
// Sorting: each column head is a button; rows without a value stay at the end, a third click restores the order.

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.querySelectorAll("th[data-column]")];
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.tagName === "TH" ? cell.dataset.text : cell.dataset.sort === "" ? null : Number(cell.dataset.sort);
  };
  const compare = (one, other) => (typeof one === "number" ? one - other : one.localeCompare(other, undefined, { numeric: true }));
  const turn = (head) => {
    const first = head.dataset.first;
    const second = first === "ascending" ? "descending" : "ascending";
    const order = { [first]: second, [second]: null }[head.getAttribute("aria-sort")];
    sortBy(head, order === undefined ? first : order);
  };
  const sortBy = (head, order) => {
    for (const other of heads) other.removeAttribute("aria-sort");
    table.classList.toggle("sorted", Boolean(order));
    if (!order) return body.append(...original);
    head.setAttribute("aria-sort", order);
    const column = Number(head.dataset.column);
    const sign = order === "ascending" ? 1 : -1;
    const known = original.filter((row) => key(row, column) !== null);
    const unknown = original.filter((row) => key(row, column) === null);
    known.sort((one, other) => sign * compare(key(one, column), key(other, column)));
    body.append(...known, ...unknown);
  };
  for (const head of heads) head.querySelector("button").addEventListener("click", () => turn(head));
}
