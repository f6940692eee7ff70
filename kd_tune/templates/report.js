"use strict";
// A click on a heading sorts its table, numbers as numbers; what is no number goes last.
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const isNumber = heading.classList.contains("number");
      const keyed = [...table.tBodies[0].rows].map((row) => {
        const text = row.cells[column].textContent;
        return { row, key: isNumber ? parseFloat(text.replace(/,/g, "")) : text };
      });
      keyed.sort((one, other) => {
        if (!isNumber) return (up ? 1 : -1) * one.key.localeCompare(other.key);
        if (Number.isNaN(one.key) || Number.isNaN(other.key)) return Number.isNaN(one.key) - Number.isNaN(other.key);
        return (up ? 1 : -1) * (one.key - other.key);
      });
      table.tBodies[0].replaceChildren(...keyed.map(({ row }) => row));
    });
  });
}
